"""Opening a run before training: its directory, its data, and the checkpoint that it resumes from."""

from dataclasses import dataclass
from typing import Self

from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.position import Position
from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.learner import Phase, phases
from dist_plm.training.resumption import newest
from dist_plm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class OpenedRun:
    """A run directory, locked if it existed, and the position to resume from; leaving the context unlocks it.

    Attributes:
        store: The training split.
        resumed_from: The checkpoint to resume from; None in a new run.
        at: Its position, or the initial one. The trainer advances it.
    """

    config: Config
    world: World
    directory: RunDirectory
    store: Store
    phases: list[Phase]
    resumed_from: checkpoint.FoundCheckpoint | None
    at: Position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.directory.release()

    @property
    def stopped(self) -> bool:
        """Whether all steps were taken."""
        last = self.at.phase + 1 == len(self.phases) and self.at.epoch >= self.phases[self.at.phase].epochs
        return last or 0 < self.config.train.max_steps <= self.at.step

    @property
    def finished(self) -> bool:
        """Whether the run was trained and evaluated to its end before."""
        return bool(self.resumed_from) and self.stopped and self.directory.ended


def open_run(config: Config, world: World, *, force: bool) -> OpenedRun:
    """Open the run of a configuration without writing anything. A collective.

    Args:
        force: Resume a run of other settings.

    Raises:
        UserError: The directory is in use or holds another experiment, or the images can't be read.
    """
    directory = RunDirectory(config, force=force)
    directory.lock(world)
    try:
        store, planned = world.together(lambda: open_split(config.data, config.data.train_split)), phases(config)
        compare(store, config.data.shards, world)
        resumed_from = newest(config, directory, store, planned, world)
        at = Position.read(resumed_from.summary["position"]) if resumed_from else Position()
    except BaseException:
        directory.release()
        raise
    return OpenedRun(config, world, directory, store, planned, resumed_from, at)


def compare(store: Store, place: str, world: World) -> None:
    """Check that all ranks see the data set of rank 0. A collective.

    Raises:
        UserError: A node has another one at the same place.
    """
    prints = world.gather_objects(store.fingerprint)
    if others := [rank for rank, fingerprint in enumerate(prints) if fingerprint != prints[0]]:
        raise UserError(
            f"rank {others[0]}: {place} is another data set there than on rank 0 (fingerprints differ): give all nodes "
            "the same --data.shards"
        )
