"""Before an epoch: sweep the images with the momentum encoder, search the seeds' neighbours, and fix the plan."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.plan import coverage, load_plan, make_plan, random_plan, save_plan
from dist_plm.data.store import Store
from dist_plm.index.gallery import Gallery, digest, sweep
from dist_plm.learner import Learner
from dist_plm.run_directory import RunDirectory
from dist_plm.runtime.metrics import Metrics
from dist_plm.runtime.progress import Display
from dist_plm.runtime.world import World


@dataclass
class Position:
    """Where a run is: all that is not a function of the configuration, besides the tensors.

    Attributes:
        phase: Index of the phase.
        epoch: Epoch within the phase.
        batch: Next step within the epoch.
        step: Steps done in all.
        epochs: Epochs ended in all; seeds plans and views.
        plan: sha256 of the epoch's plan; empty until it is made.
        sweep: Name of the teacher's weights whose embeddings the plans rest on.
        metrics_bytes: Length of metrics.jsonl.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    epochs: int = 0
    plan: str = ""
    sweep: str = ""
    metrics_bytes: int = 0


@dataclass(frozen=True)
class Planner:
    """Makes the plan of each epoch, the same on all ranks and for any number of them."""

    config: Config
    store: Store
    directory: RunDirectory
    world: World
    display: Display
    metrics: Metrics

    def plan(self, at: Position, learner: Learner) -> np.ndarray:
        """Sample ids [steps, groups, group_size] of the epoch at `at`: the saved plan if the epoch was begun before.

        A new plan is saved and its hash noted in `at`. It is never made twice, since two searches may differ in ties.
        """
        path, n = self.directory.plan(at.epochs), len(self.store)
        if at.plan:
            return load_plan(path, at.plan)
        batch, seed = self.config.batch, self.config.seed
        if learner.method.nearest_neighbour_batches:
            gallery = self._gallery(at, learner)
            if at.epoch == 0:
                learner.method.begin(torch.tensor(gallery.embeddings, device=self.world.device, dtype=learner.dtype))
            plan = make_plan(n, batch=batch, seed=seed, epoch=at.epochs, neighbours=gallery.neighbours)
        else:
            plan = random_plan(n, batch, seed, at.epochs)
        at.plan = self.world.gather_objects(save_plan(path, plan) if self.world.is_first else "")[0]
        self.metrics.write(
            "plan", step=at.step, epoch=at.epochs, steps=len(plan), coverage=coverage(plan, n), sha256=at.plan
        )
        return load_plan(path, at.plan)

    def _gallery(self, at: Position, learner: Learner) -> Gallery:
        """Embeddings of the training images by the momentum encoder, `batch.refresh_epochs` old at most."""
        started = time.monotonic()
        if at.epoch % self.config.batch.refresh_epochs == 0:
            at.sweep = digest(learner.teacher)
        embeddings = sweep(
            learner.embed_with(learner.teacher),
            self.store,
            self.directory.sweep(at.sweep),
            config=self.config,
            world=self.world,
            display=self.display,
            title=f"sweep {self.store.split}",
        )
        self.directory.keep_sweep(at.sweep, self.world)
        self.metrics.write("sweep", step=at.step, epoch=at.epochs, seconds=time.monotonic() - started)
        return Gallery(embeddings, self.config.runtime.index, self.world)
