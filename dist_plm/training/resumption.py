"""Where a run goes on: at its newest checkpoint, if that is of the same images and phases."""

from typing import Any

from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.position import Position
from dist_plm.config import Config
from dist_plm.data.plan_file import load_plan
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.learner import Phase
from dist_plm.training.run_directory import RunDirectory


def newest(
    config: Config, directory: RunDirectory, store: Store, phases: list[Phase], world: World
) -> checkpoint.Found | None:
    """The newest intact checkpoint of a run directory whose plan is intact too; None in a new one. A collective.

    Raises:
        UserError: what can't be forced differs: a plan names images of one data set, and a position a phase.
    """

    def judge(summary: dict[str, Any]) -> str:
        return _plan_fault(Position.read(summary["position"]), directory)

    found = checkpoint.find(directory.checkpoints, world, judge)
    if not found:
        return None
    if found.summary["data"] != store.fingerprint:
        raise UserError(
            f"{found.path} was trained on other images than {config.data.shards} holds "
            "(fingerprints differ): name that data set, or another --run_dir"
        )
    there, here = found.summary["phases"], [phase.name for phase in phases]
    if there != here:
        raise UserError(
            f"{found.path} is of a run of the phases {', '.join(there)}, this configuration has {', '.join(here)} "
            "(train.method, warm_up.epochs): take those, or another --run_dir"
        )
    return found


def _plan_fault(at: Position, directory: RunDirectory) -> str:
    """What is wrong with the plan, or the made-up classes, that a run goes on with at `at`; empty for nothing."""
    try:
        if at.plan and at.batch >= len(load_plan(directory.plan(at.epochs), at.plan)):
            return f"position.batch is {at.batch}, beyond the end of {directory.plan(at.epochs)}"
        if at.labels:
            load_plan(directory.labels(at.labels), at.labels)
        if at.nearest:
            load_plan(directory.nearest(at.sweep), at.nearest)
    except UserError as error:
        return str(error)
    return ""
