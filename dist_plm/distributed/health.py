"""What ranks tell each other once a second, beside the collectives: that they live, where, and whether to leave.

A failed collective can name its cause by it, and a signal that one rank caught reaches ranks that are busy for long.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass, replace

import torch.distributed as dist

BEAT_SECONDS = 1.0
SILENT_SECONDS = 5.0  # five missed beats: a process that is only busy still beats, from a thread of its own


@dataclass
class Beat:
    """A sign of life: when by the sender's monotonic clock, at which step, and in which collective or other work."""

    time: float = 0.0
    step: int = 0
    doing: str = "starting"


class Health:
    """Publishes this rank's beats in the process group's store and reads those of the others.

    Attributes:
        told: Signal that this rank caught, 0 for none; the others will hear of it.
        heard: Signal that any rank caught, 0 for none so far.
    """

    def __init__(self, rank: int, size: int, store: dist.Store) -> None:
        self.rank, self.size, self.beat = rank, size, Beat()
        self.told = self.heard = 0
        self._ahead = size * [0.0]
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="health", daemon=True)
        self._thread.start()

    def compare(self, clocks: list[float]) -> None:
        """Take note of the ranks' monotonic clocks, read at about the same moment: each began with its own host."""
        self._ahead = [clock - clocks[self.rank] for clock in clocks]

    def diagnose(self) -> str:
        """After a failure: wait for silence to show, then say which rank is to blame and where it was last."""
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
        return f"all ranks still run: {where or 'all in the same place'}; {here}"

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2 * BEAT_SECONDS)

    def _publish(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self.beat.time = time.monotonic()
            try:
                self._store.set(f"beat/{self.rank}", json.dumps(asdict(self.beat)))
                if self.told:
                    self._store.set("leave", str(self.told))
                if self._store.check(["leave"]):
                    self.heard = int(self._store.get("leave"))
            except RuntimeError:  # the store died with its host; the collectives will say so
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
        return f"rank {rank} died or froze (never heard of, or the host of the store is gone)"
    return f"rank {rank} died or froze at step {beat.step} in {beat.doing}, last heard {now - beat.time:.0f} s ago"
