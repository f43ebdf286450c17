"""The networks of a run as its newest checkpoint holds them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.learner import Learner, phases
from dist_plm.runtime import checkpoint
from dist_plm.runtime.world import World


@dataclass(frozen=True)
class Trained:
    """Student and momentum encoder, and where the run was when they were saved (see `planner.Position`)."""

    learner: Learner
    position: dict[str, Any]

    @classmethod
    def load(cls, run: Path, config: Config, world: World) -> "Trained":
        """The networks of the run directory `run`. A collective.

        Raises:
            UserError: there is no checkpoint, or none that is intact and of this configuration.
        """
        found = checkpoint.find(run / "checkpoints", world)
        if found is None:
            raise UserError(f"{run} holds no checkpoint: train first, or name another run directory")
        position = found.summary["position"]
        # The checkpoint holds all weights; the file that training started from may be gone.
        config = replace(config, model=replace(config.model, weights=""))
        learner = Learner(config, world, phases(config)[position["phase"]])
        networks = {name: value for name, value in learner.state().items() if name.startswith(("student.", "teacher."))}
        checkpoint.load(found.path, networks)
        return cls(learner, position)
