"""Where a run goes on: at its newest checkpoint, if that is of the same images and phases."""

from dist_plm.checkpoint import checkpoint
from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.training.learner import Phase
from dist_plm.training.run_directory import RunDirectory


def newest(
    config: Config, directory: RunDirectory, store: Store, phases: list[Phase], world: World
) -> checkpoint.Found | None:
    """The newest complete checkpoint of a run directory; None in a new one. A collective.

    Raises:
        UserError: what can't be forced differs: a plan names images of one data set, and a position a phase.
    """
    found = checkpoint.find(directory.checkpoints, world)
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
