"""Saving beside training: a step stalls for the copy to host memory only, and the write goes on in a thread."""

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

    The write's collectives have a process group of their own: on the group of training they would meet the gradients'
    all-reduce in another order on every rank, and wait forever.

    Args:
        folder: RUN_DIR/checkpoints; what a killed save left there is removed.
        config: Which checkpoints stay.
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
        """Begin to write the checkpoint of `step`, the `best` so far; first waits for the one before. A collective.

        A write that fails is reported when the next one begins, and training goes on.
        """
        if fault := self._wait():
            self.display.say(f"warning: {fault}; training goes on; {self._kept()}")
        if checkpoint.prepare(self.folder, step, self.world):
            own = checkpoint.staged(checkpoint.share(state, self.world))
            arguments = (step, own, checkpoint.file_numbers(state, self.world), facts, best)
            self._thread = threading.Thread(target=self._write, args=arguments, name="saver")
            self._thread.start()
        elif best and self.world.is_first:
            retention.mark_best(self.folder, step)

    def finish(self) -> None:
        """Wait for the last write. A collective.

        Raises:
            RunFailure: it failed.
        """
        if fault := self._wait():
            raise RunFailure(f"{fault}; {self._kept()}")

    def _kept(self) -> str:
        """Which checkpoint is left after a write failed."""
        older = checkpoint.candidates(self.folder)
        return f"{older[0].name} is kept" if older else "no checkpoint was written before it"

    def _wait(self) -> str:
        """What went wrong with the write before, on any rank; empty when all went well."""
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
                retention.drop(self.folder, self.config)
        except BaseException as error:  # CheckpointException is no Exception, and a thread's error would be lost
            cause = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
            self._fault = f"the checkpoint of step {step} could not be saved ({cause})"
