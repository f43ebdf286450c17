"""State shared by the parts of a run: created by the trainer, read by planner, evaluator and journal."""

from dataclasses import dataclass

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.telemetry.metrics import Metrics
from dist_plm.telemetry.progress import Display
from dist_plm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class RunLog:
    """Output of a run: the terminal of rank 0, and metrics.jsonl with the logger backends."""

    display: Display
    metrics: Metrics

    def warn(self, text: str, step: int) -> None:
        """Print a warning and log it."""
        self.metrics.write("warning", step=step, message=text)
        self.display.say(f"warning: {text}")


@dataclass(frozen=True)
class RunContext:
    """A run on this rank.

    Attributes:
        store: The training split.
    """

    config: Config
    world: World
    store: Store
    directory: RunDirectory
    log: RunLog
