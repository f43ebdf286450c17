"""Where a run's numbers are drawn while it runs: TensorBoard always, Weights & Biases where it is asked for."""

import hashlib
from pathlib import Path
from typing import Any, Protocol


class Unreachable(Exception):
    """A board that can't be had now."""


class Board(Protocol):
    """Takes numbers by name at a step."""

    def add(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; those of a killed run beyond `last` are hidden."""

    def __init__(self, folder: Path, last: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=None if last is None else last + 1)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `train.wandb`; the same run directory goes on with the same run there.

    Steps are an axis of their own: wandb's counter never goes back, a resumed run does.

    Raises:
        Unreachable: wandb refuses, in its own words.
    """

    def __init__(self, project: str, folder: Path) -> None:
        import wandb

        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        try:
            self._run: Any = wandb.init(
                project=project,
                name=folder.name,
                id=identity,
                resume="allow",
                dir=str(folder),
                reinit="finish_previous",
            )
        except wandb.Error as error:
            raise Unreachable(
                f"{' '.join(str(error).split())[:200]}. Run `wandb login`, or set WANDB_MODE=offline"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def add(self, numbers: dict[str, float], step: int) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()
