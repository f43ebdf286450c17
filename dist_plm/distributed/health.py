"""Heartbeats between ranks, once a second and independent of collectives: liveness, position and pending signals.

They name the rank that made a collective fail, and forward a signal to ranks that are in a long computation.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass, replace

import torch.distributed as dist

BEAT_SECONDS = 1.0
SILENT_SECONDS = 5.0  # five missed heartbeats; a busy process still sends them, from a separate thread


@dataclass
class Beat:
    """A heartbeat: the sender's monotonic clock, its step, and the collective or other work it is in."""

    time: float = 0.0
    step: int = 0
    doing: str = "starting"


class Health:
    """Publishes this rank's heartbeats in the process group's store and reads those of the others.

    Attributes:
        caught: Signal that this rank caught, 0 for none; forwarded to the other ranks.
        announced: Signal that any rank caught, 0 for none so far.
    """

    def __init__(self, rank: int, size: int, store: dist.Store) -> None:
        self.rank, self.size, self.beat = rank, size, Beat()
        self.caught = self.announced = 0
        self._ahead = size * [0.0]
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="health", daemon=True)
        self._thread.start()

    def compare(self, clocks: list[float]) -> None:
        """Store the offsets between the ranks' monotonic clocks, which start at a different time on each host."""
        self._ahead = [clock - clocks[self.rank] for clock in clocks]

    def diagnose(self) -> str:
        """Diagnose a failed collective: wait until a dead rank misses heartbeats, then name it."""
        deadline = time.monotonic() + SILENT_SECONDS + 2 * BEAT_SECONDS
        while True:
            beats = {rank: self._read(rank) for rank in range(self.size) if rank != self.rank}
            now = time.monotonic()
            silent = [rank for rank, beat in beats.items() if not beat or now - beat.time > SILENT_SECONDS]
            if silent or now > deadline:
                break
            time.sleep(BEAT_SECONDS / 2)
        here = f"this rank was in {self.beat.doing}"
        if silent:
            return f"{', '.join(_describe(rank, beats[rank], now) for rank in silent)}; {here}"
        behind = [rank for rank, beat in beats.items() if beat and beat.step < self.beat.step]
        elsewhere = behind or [rank for rank, beat in beats.items() if beat and beat.doing != self.beat.doing]
        where = ", ".join(f"rank {rank} is at step {b.step} in {b.doing}" for rank in elsewhere if (b := beats[rank]))
        return f"all ranks are alive: {where or 'all in the same place'}; {here}"

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * BEAT_SECONDS)

    def _publish(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.beat.time = time.monotonic()
            try:
                self._store.set(f"beat/{self.rank}", json.dumps(asdict(self.beat)))
                if self.caught:
                    self._store.set("leave", str(self.caught))
                if self._store.check(["leave"]):
                    self.announced = int(self._store.get("leave"))
            except RuntimeError:  # the store is gone with its host; collectives will fail too
                return

    def _read(self, rank: int) -> Beat | None:
        try:
            if not self._store.check([f"beat/{rank}"]):
                return None
            beat = Beat(**json.loads(self._store.get(f"beat/{rank}")))
            return replace(beat, time=beat.time - self._ahead[rank])
        except RuntimeError:
            return None


def _describe(rank: int, beat: Beat | None, now: float) -> str:
    if beat is None:
        return f"rank {rank} died or froze (no heartbeat received, or the host of the store is gone)"
    return f"rank {rank} died or froze at step {beat.step} in {beat.doing}, last heartbeat {now - beat.time:.0f} s ago"
