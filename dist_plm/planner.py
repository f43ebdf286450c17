"""Before an epoch: sweep the images with the momentum encoder, search the seeds' neighbours, and fix the plan."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.plan import class_plan, coverage, load_plan, make_plan, random_plan, save_plan
from dist_plm.data.store import Store
from dist_plm.index.gallery import Gallery, digest, sweep
from dist_plm.learner import Learner
from dist_plm.run_directory import RunDirectory
from dist_plm.runtime.metrics import Metrics
from dist_plm.runtime.parts import part
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
        labels: sha256 of the classes made up at the last refresh; empty where there are none.
        metrics_bytes: Length of metrics.jsonl.
        best: Highest recall of an evaluation so far that decides which checkpoint is the best.
    """

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    epochs: int = 0
    plan: str = ""
    sweep: str = ""
    labels: str = ""
    metrics_bytes: int = 0
    best: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What an epoch reads.

    Attributes:
        ids: int64 [steps, groups, group_size], images of the global batches.
        labels: int [n], classes of all images, for a method whose batches are made of them.
    """

    ids: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class Planner:
    """Makes the plan of each epoch, the same on all ranks and for any number of them."""

    config: Config
    store: Store
    directory: RunDirectory
    world: World
    display: Display
    metrics: Metrics

    @part("sweep")
    def plan(self, at: Position, learner: Learner) -> Plan:
        """The epoch at `at`: the saved plan if it was begun before.

        What is new is saved and its hash noted in `at`. It is never made twice, since two searches, or two clusterings,
        may differ in ties.
        """
        path = self.directory.plan(at.epochs)
        if not at.plan:
            ids = self._new(at, learner)
            at.plan = self._shared(lambda: save_plan(path, ids))
            share = coverage(ids, len(self.store))
            self.metrics.write("plan", step=at.step, epoch=at.epochs, steps=len(ids), coverage=share, sha256=at.plan)
        return Plan(load_plan(path, at.plan), self._labels(at, learner))

    def _new(self, at: Position, learner: Learner) -> np.ndarray:
        batch, seed, n = self.config.batch, self.config.seed, len(self.store)
        batches = learner.method.batches
        if batches == "random":
            return random_plan(n, batch, seed, at.epochs)
        if batches == "neighbours":
            gallery = self._gallery(at, learner)
            if at.epoch == 0:
                embeddings = torch.tensor(gallery.embeddings, dtype=learner.method_dtype)
                learner.method.begin(embeddings.to(self.world.device))
            return make_plan(n, batch=batch, seed=seed, epoch=at.epochs, neighbours=gallery.neighbours)
        if batches == "clusters" and self._refreshing(at):
            self._cluster(at, learner)
        labels = self._labels(at, learner)
        assert labels is not None
        return class_plan(labels, batch, seed, at.epochs)

    def _cluster(self, at: Position, learner: Learner) -> None:
        """Make classes up from the gallery on the first rank, save them, and hand them to the method."""
        gallery = self._gallery(at, learner).embeddings
        started = time.monotonic()
        at.labels = self._shared(lambda: self.directory.save_labels(learner.method.cluster(gallery)))
        labels = load_plan(self.directory.labels(at.labels), at.labels)
        learner.relabel(gallery, labels)
        found, left_out = len(np.unique(labels[labels >= 0])), int((labels < 0).sum())
        self.metrics.write("clusters", step=at.step, epoch=at.epochs, clusters=found, left_out=left_out,
                           sha256=at.labels, seconds=time.monotonic() - started)  # fmt: skip

    def _labels(self, at: Position, learner: Learner) -> np.ndarray | None:
        if learner.method.batches == "clusters":
            return load_plan(self.directory.labels(at.labels), at.labels)
        return self.store.labels if learner.method.batches == "classes" else None

    def _shared(self, save: Callable[[], str]) -> str:
        """The hash of what the first rank saves, on all ranks."""
        return self.world.gather_objects(save() if self.world.is_first else "")[0]

    def _refreshing(self, at: Position) -> bool:
        return at.epoch % self.config.batch.refresh_epochs == 0

    def _is_swept(self, at: Position) -> bool:
        """Whether the last refresh's embeddings are still there; a run that fell back behind a later one lost them."""
        folder = self.directory.sweep(at.sweep) / self.store.split
        swept = bool(self._shared(lambda: at.sweep if folder.is_dir() else ""))
        if not swept:
            message = f"the embeddings {at.sweep} of the last refresh are gone: those of the present weights are taken"
            self.metrics.write("warning", step=at.step, message=message)
            self.display.say(f"warning: {message}")
        return swept

    def _gallery(self, at: Position, learner: Learner) -> Gallery:
        """Embeddings of the training images by the momentum encoder, `batch.refresh_epochs` old at most."""
        started = time.monotonic()
        # STML finds neighbours by the wide head; a sweep by the other one, of the same weights, must not pass for it.
        wide = bool(self.config.model.wide_dim)
        teacher = learner.strategy.whole(learner.teacher)
        if self._refreshing(at) or not self._is_swept(at):
            at.sweep = digest(teacher) + "_wide" * wide
        embeddings = sweep(
            learner.embed_with(teacher, wide=wide),
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
