"""Choice of the checkpoint to resume from: the newest intact one, of the same data set and phases."""

from typing import Any

from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.position import Position
from dist_plm.config import Config
from dist_plm.data.plan_file import check_ids, load_plan
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.learner import Phase
from dist_plm.training.run_directory import RunDirectory


def newest(
    config: Config, directory: RunDirectory, store: Store, phases: list[Phase], world: World
) -> checkpoint.FoundCheckpoint | None:
    """The newest checkpoint of a run directory that is intact together with its plan; None in a new run. A collective.

    Raises:
        UserError: It belongs to another data set or other phases, or is within an epoch of batches of another size,
            which `--force_resume` can't override.
    """

    def judge(summary: dict[str, Any]) -> str:
        return _plan_fault(Position.read(summary["position"]), directory, len(store))

    latest = checkpoint.find(directory.checkpoints, world, judge)
    if not latest:
        return None
    if latest.summary["data"] != store.fingerprint:
        raise UserError(
            f"{latest.path} was trained on a data set other than {config.data.shards} "
            "(fingerprints differ): use that data set, or another --run_dir"
        )
    there, here = latest.summary["phases"], [phase.name for phase in phases]
    if there != here:
        raise UserError(
            f"{latest.path} is of a run of the phases {', '.join(there)}, this configuration has {', '.join(here)} "
            "(train.method, warm_up.epochs): use those, or another --run_dir"
        )
    world.together(lambda: _check_batch(config, directory, latest))
    return latest


def _check_batch(config: Config, directory: RunDirectory, latest: checkpoint.FoundCheckpoint) -> None:
    """Raise UserError if the plan of a started epoch has batches of another size, which the epoch would end with."""
    at, batch = Position.read(latest.summary["position"]), config.batch
    if not at.plan:
        return
    plan = load_plan(directory.plan(at.epochs), at.plan)
    if plan[0].size != batch.images:
        raise UserError(
            f"{latest.path} is within an epoch planned in batches of {plan.shape[1]} groups x {plan.shape[2]} images, "
            f"batch.groups {batch.groups} x batch.group_size {batch.group_size} is another size: train to its end with "
            f"the run's settings first, by --train.max_steps {at.step - at.batch + len(plan)}"
        )


def _plan_fault(at: Position, directory: RunDirectory, images: int) -> str:
    """Damage of the plan or pseudo-labels needed to resume at `at`; empty for none."""
    try:
        if at.plan:
            path = directory.plan(at.epochs)
            plan = check_ids(load_plan(path, at.plan), path, dims=3, below=images)
            if at.batch >= len(plan):
                return f"position.batch is {at.batch}, beyond the end of {path}"
        if at.labels:
            path = directory.labels(at.labels)
            labels = check_ids(load_plan(path, at.labels), path, dims=1, below=images, least=-1)
            if len(labels) != images:
                return f"{path} has {len(labels)} labels of {images} images"
        if at.nearest:
            path = directory.nearest(at.sweep)
            nearest = check_ids(load_plan(path, at.nearest), path, dims=2, below=images)
            if len(nearest) != images:
                return f"{path} has the neighbours of {len(nearest)} images, not of {images}"
    except UserError as error:
        return str(error)
    return ""
