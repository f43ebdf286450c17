"""Logger backends: TensorBoard always, Weights & Biases on request."""

import hashlib
from pathlib import Path
from typing import Any, Protocol


class Unreachable(Exception):
    """A logger backend is unavailable."""


class Board(Protocol):
    """A logger backend: scalars by name at a step."""

    def add(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; events of a killed run after step `last` are hidden."""

    def __init__(self, folder: Path, last: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=None if last is None else last + 1)

    def add(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `train.wandb`; a resumed run directory continues the same wandb run.

    Steps are a custom axis: wandb's own counter can't go back, as a resumed run does.

    Raises:
        Unreachable: wandb raised an error, whose text it has.
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
