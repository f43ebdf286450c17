"""What the parts of one run have in common: the trainer makes it once, planner, evaluator and journal read it."""

from dataclasses import dataclass

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.telemetry.metrics import Metrics
from dist_plm.telemetry.progress import Display
from dist_plm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class RunLog:
    """Where a run reports: the terminal of the first rank, and metrics.jsonl with its loggers."""

    display: Display
    metrics: Metrics

    def warn(self, text: str, step: int) -> None:
        """To both."""
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
