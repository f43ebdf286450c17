"""Asynchronous checkpointing: a step stalls for the copy to host memory only; a thread writes it."""

import threading
from pathlib import Path
from typing import Any

from dist_plm.checkpoint import checkpoint, retention
from dist_plm.config import CheckpointConfig
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure
from dist_plm.telemetry.parts import part
from dist_plm.telemetry.progress import Display


class Saver:
    """Writes the checkpoints of a run, one at a time.

    The collectives of the write use a separate process group: on that of training their order relative to the
    gradients' all-reduce would differ between ranks, a deadlock.

    Args:
        folder: RUN_DIR/checkpoints; leftovers of a killed save are removed.
        config: Retention of checkpoints.
    """

    def __init__(self, folder: Path, world: World, display: Display, config: CheckpointConfig) -> None:
        self.folder, self.world, self.display, self.config = folder, world, display, config
        if world.is_first:
            checkpoint.clean(folder)
        self._group = world.new_group()
        self._thread: threading.Thread | None = None
        self._fault = ""

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    @part("checkpoint")
    def save(self, step: int, state: checkpoint.State, facts: dict[str, Any], *, best: bool = False) -> None:
        """Start to write the checkpoint of `step`, after waiting for the previous one. A collective.

        A failed write is reported when the next one starts, and training continues.
        """
        if fault := self._wait():
            self.display.say(f"warning: {fault}; training continues; {self._kept()}")
        if checkpoint.prepare(self.folder, step, self.world):
            local_state = checkpoint.staged(checkpoint.share(state, self.world))
            arguments = (step, local_state, checkpoint.file_numbers(state, self.world), facts, best)
            self._thread = threading.Thread(target=self._write, args=arguments, name="saver")
            self._thread.start()
        elif best and self.world.is_first:
            retention.mark_best(self.folder, step)
            retention.drop(self.folder, self.config, step)

    def join(self) -> None:
        """Wait until this rank writes nothing any more, without a collective."""
        if self._thread is not None:
            self._thread.join()

    def finish(self) -> None:
        """Wait for the last write. A collective.

        Raises:
            RunFailure: The write failed.
        """
        if fault := self._wait():
            raise RunFailure(f"{fault}; {self._kept()}")

    def _kept(self) -> str:
        """The checkpoint that remains after a failed write, for a message."""
        older = checkpoint.candidates(self.folder)
        return f"{older[0].name} is kept" if older else "no checkpoint was written before it"

    def _wait(self) -> str:
        """Wait for the previous write; returns its error on any rank, empty on success."""
        if self._thread is None:
            return ""
        self._thread.join()
        self._thread = None
        faults = [fault for fault in self.world.gather_objects(self._fault) if fault]
        self._fault = ""
        if faults and self.world.is_first:
            checkpoint.clean(self.folder)
        return faults[0] if faults else ""

    def _write(
        self, step: int, state: checkpoint.State, numbers: dict[str, int], facts: dict[str, Any], best: bool
    ) -> None:
        try:
            checkpoint.write(self.folder, step, state, numbers, facts, self._group)
            if self.world.is_first:
                if best:
                    retention.mark_best(self.folder, step)
                retention.drop(self.folder, self.config, step)
        except BaseException as error:  # CheckpointException is not an Exception, and a thread's error would be lost
            cause = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            self._fault = f"the checkpoint of step {step} could not be saved ({cause})"
