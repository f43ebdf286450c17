"""Plan of an epoch: embed all images with the momentum encoder, search the seeds' neighbours, compose the batches.

The embedding pass is skipped for methods that need no embeddings.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from dist_plm.checkpoint.position import Position
from dist_plm.data.plan import class_plan, coverage, plan_blocks, plan_steps, random_plan
from dist_plm.data.plan_file import load_plan, save_blocks
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.embedding_pass import sweep
from dist_plm.index.global_index import GlobalIndex
from dist_plm.index.nearest_images import NearestImages, search_all
from dist_plm.index.placement import place_run
from dist_plm.model.digest import digest
from dist_plm.telemetry.parts import part
from dist_plm.training.cached_views import CachedViews
from dist_plm.training.context import RunContext
from dist_plm.training.learner import Learner


@dataclass(frozen=True)
class Plan:
    """The batches of an epoch.

    Attributes:
        ids: int64 [steps, groups, group_size], images of the global batches.
        labels: int [n], classes of all images, for a method that samples batches by class.
        nearest: The nearest images of each image, for a method that reads the gallery.
        names: Attributes of `Position` that identify the plan in a resumed run.
    """

    ids: np.ndarray
    labels: np.ndarray | None
    nearest: NearestImages | None
    names: dict[str, str]


@dataclass(frozen=True)
class Planner:
    """Computes the plan of each epoch, the same on all ranks and at any world size."""

    run: RunContext
    views: CachedViews | None = None

    @part("sweep")
    def plan(self, at: Position, learner: Learner) -> Plan:
        """The plan of the epoch at `at`: the saved one if the epoch was started before.

        A new plan is saved and never recomputed, since two searches, or two clusterings, may differ in ties.
        """
        at = replace(at)  # a copy: only the trainer changes the run's position
        path = self.run.directory.plan(at.epochs)
        begun = bool(at.plan)
        at.plan = at.plan or self._make(path, at, learner)
        ids = self.run.world.together(lambda: load_plan(path, at.plan))
        if not begun:
            share = coverage(ids, len(self.run.store)) if self.run.world.is_first else 0.0
            self.run.log.metrics.write(
                "plan", step=at.step, epoch=at.epochs, steps=len(ids), coverage=share, sha256=at.plan
            )
        names = {"plan": at.plan, "sweep": at.sweep, "labels": at.labels, "nearest": at.nearest}
        return Plan(ids, self._labels(at, learner), self._nearest(at, learner), names)

    def _make(self, path: Path, at: Position, learner: Learner) -> str:
        """Write the plan block by block on rank 0, and return its hash on all ranks."""
        batch = self.run.config.batch
        shape = (plan_steps(len(self.run.store), batch), batch.groups, batch.group_size)
        blocks = self._blocks(at, learner)
        if not self.run.world.is_first:
            deque(blocks, maxlen=0)  # the search takes all ranks
        sha256 = self._shared(lambda: save_blocks(path, shape, blocks))
        self.run.directory.keep_sweep(at.sweep, self.run.world)
        return sha256

    def _blocks(self, at: Position, learner: Learner) -> Iterator[np.ndarray]:
        """The plan, int64 [some, groups, group_size] at a time. A collective."""
        batches = learner.method.batches
        if batches in ("classes", "clusters"):
            if batches == "clusters" and self._refreshing(at):
                self._cluster(at, learner)
            labels = self._labels(at, learner)
            assert labels is not None
            yield class_plan(labels, self.run.config.batch, self.run.config.seed, at.epochs)
            return
        # Embedded on demand: not every method searches, or starts its proxies from the gallery.
        embeddings = cache(partial(self._embeddings, at, learner))
        if at.epoch == 0:
            device, dtype = self.run.world.device, learner.method_dtype
            learner.method.begin(lambda: torch.from_numpy(embeddings().whole()).to(device, dtype))
        is_searched, reads_gallery = learner.method.is_searched(self.run.config.batch), self._reads_gallery(learner)
        if reads_gallery and self._refreshing(at):
            self._search_all(at, embeddings())
        if is_searched:
            yield from self._around_seeds(at, embeddings())
            return
        if not reads_gallery:
            at.sweep = ""  # not needed again
        yield random_plan(len(self.run.store), self.run.config.batch, self.run.config.seed, at.epochs)

    def _around_seeds(self, at: Position, embeddings: Embeddings) -> Iterator[np.ndarray]:
        """Groups of the epoch's seeds with their nearest neighbours."""
        batch, n, seed = self.run.config.batch, len(embeddings), self.run.config.seed
        title, total = f"search {self.run.store.split}", plan_steps(n, batch) * batch.groups
        with (
            self._index(at, embeddings, max(1, batch.group_size - 1)) as index,
            self.run.log.display.phase(title, total, "seeds") as bar,
        ):
            for block in plan_blocks(n, batch=batch, seed=seed, epoch=at.epochs, neighbours=index.neighbours):
                yield block
                bar.advance(len(block) * batch.groups)
                self.run.world.leave_if_signalled()

    @contextmanager
    def _index(self, at: Position, embeddings: Embeddings, k: int) -> Iterator[GlobalIndex]:
        """An index of the configured recall for k neighbours; its memory is freed before training continues."""
        config, placement = self.run.config, place_run(self.run.config, len(embeddings), self.run.world.size)
        backend, seed = config.index.backend, config.seed
        with GlobalIndex(
            embeddings, config.index, placement, backend=backend, world=self.run.world, seed=seed
        ) as index:
            try:
                index.guard(at.epochs, k)
                yield index
            finally:
                self.run.log.metrics.write("index", step=at.step, epoch=at.epochs, **index.facts)

    def _reads_gallery(self, learner: Learner) -> bool:
        return learner.method.reads_gallery(self.run.config)

    def _search_all(self, at: Position, embeddings: Embeddings) -> None:
        """Search the nearest images of every image, save them on rank 0, and store the hash in `at` on all ranks."""
        n, k = len(embeddings), self.run.config.manifold.k

        def table(index: GlobalIndex) -> Iterator[np.ndarray]:
            with self.run.log.display.phase(f"neighbours of {self.run.store.split}", n, "images") as bar:
                for block in search_all(index, n, k):
                    yield block
                    bar.advance(len(block))
                    self.run.world.leave_if_signalled()

        with self._index(at, embeddings, k) as index:
            blocks = table(index)
            if not self.run.world.is_first:
                deque(blocks, maxlen=0)  # the search takes all ranks
            at.nearest = self._shared(lambda: save_blocks(self.run.directory.nearest(at.sweep), (n, k), blocks))

    def _nearest(self, at: Position, learner: Learner) -> NearestImages | None:
        if not self._reads_gallery(learner):
            return None
        return NearestImages(self._swept(at, learner), load_plan(self.run.directory.nearest(at.sweep), at.nearest))

    def _cluster(self, at: Position, learner: Learner) -> None:
        """Cluster the gallery into pseudo-labels on rank 0, save them, and pass them to the method."""
        gallery = self._embeddings(at, learner).whole()
        started = time.monotonic()
        made = self.run.world.from_first_at_length
        at.labels = made(lambda: self.run.directory.save_labels(learner.method.cluster(gallery)))
        labels = load_plan(self.run.directory.labels(at.labels), at.labels)
        learner.relabel(gallery, labels)
        clusters, left_out = len(np.unique(labels[labels >= 0])), int((labels < 0).sum())
        self.run.log.metrics.write("clusters", step=at.step, epoch=at.epochs, clusters=clusters, left_out=left_out,
                           sha256=at.labels, seconds=time.monotonic() - started)  # fmt: skip

    def _labels(self, at: Position, learner: Learner) -> np.ndarray | None:
        if learner.method.batches == "clusters":
            return load_plan(self.run.directory.labels(at.labels), at.labels)
        return self.run.store.labels if learner.method.batches == "classes" else None

    def _shared(self, save: Callable[[], str]) -> str:
        """Save on rank 0, and return the hash on all ranks."""
        return self.run.world.from_first(save)

    def _refreshing(self, at: Position) -> bool:
        return at.epoch % self.run.config.batch.refresh_epochs == 0

    def _embeddings(self, at: Position, learner: Learner) -> Embeddings:
        """Embeddings of the training images by the momentum encoder, at most `batch.refresh_epochs` old."""
        started = time.monotonic()
        present = self._present(learner)
        if self._refreshing(at):
            at.sweep = present
        try:
            embeddings = self._swept(at, learner)
        except RunFailure as lost:
            if at.sweep == present or not self.run.directory.force:
                raise
            self.run.log.warn(f"{lost}: using embeddings of the current weights instead", at.step)
            at.sweep = present
            embeddings = self._swept(at, learner)
        self.run.log.metrics.write("sweep", step=at.step, epoch=at.epochs, seconds=time.monotonic() - started)
        return embeddings

    def _present(self, learner: Learner) -> str:
        """The name of embeddings by the current weights. A collective."""
        # STML searches embeddings of the wide head, which must not be confused with those of the other head.
        wide = "_wide" * bool(self.run.config.model.wide_dim)
        return digest(learner.whole("teacher")) + wide + "_fp16" * (self.run.config.index.precision == "fp16")

    def _swept(self, at: Position, learner: Learner) -> Embeddings:
        """The embeddings named by `at.sweep`; missing ones are recomputed if the weights are still the same."""
        return sweep(
            learner.embed_with(learner.whole("teacher"), wide=bool(self.run.config.model.wide_dim)),
            self.run.store,
            self.run.directory.sweep(at.sweep),
            config=self.run.config,
            world=self.run.world,
            display=self.run.log.display,
            title=f"sweep {self.run.store.split}",
            precision=self.run.config.index.precision,
            source=self.views.source(self.run.store) if self.views else None,
            renewable=at.sweep == self._present(learner),
        )
