"""One setting, one seed: the project's learner over cached maps, its recall on the way and what its losses did."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reproduction.cut import above, insert_batch_norm
from benchmarks.reproduction.features import Features
from benchmarks.reproduction.oracle import ChangedTargets
from benchmarks.reproduction.stml_readings import READINGS, student_g
from dist_plm.cli import config_of, config_parser
from dist_plm.config import Config
from dist_plm.data.loader import Batch
from dist_plm.data.plan import class_plan, make_plan, random_plan
from dist_plm.distributed.world import World
from dist_plm.evaluation.label_free import label_free
from dist_plm.evaluation.live import batch_quality
from dist_plm.evaluation.retrieval import retrieval_counts
from dist_plm.index import nearest
from dist_plm.index.embedding_pass import Embed
from dist_plm.index.rows import HeldRows
from dist_plm.model.batch_norm import convert_batch_norm
from dist_plm.training.cached_views import chosen_views
from dist_plm.training.learner import Learner, phases

BLOCK = 500  # images in a forward pass
LOOK_EVERY = 10  # steps between two looks at the statistics
KS = (1, 2, 4, 8)


@dataclass
class Experiment:
    """A run of `steps` steps.

    Args:
        config: Of the run; `train.max_steps` is its length, over which the schedule goes.
        features: Maps that enter `cut`.
        cut: First trained block.
        evaluate_every: Steps between two evaluations; start and end are always evaluated.
        with_batch_norm: Whether batch norm is inserted into what is trained; `model.batch_norm` says how it is treated.
        change: Of oracle.py, what equation 6 is changed by.
        class_groups: Batches of `batch.groups` classes with `batch.group_size` images each, by the true labels.
        readings: Of stml_readings.py, what STML is changed by.
    """

    config: Config
    features: Features
    cut: str
    evaluate_every: int
    with_batch_norm: bool = False
    change: str = ""
    class_groups: bool = False
    readings: tuple[str, ...] = ()
    course: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_options(cls, cache: Path, options: str) -> "Experiment":
        """The head alone over the features in `cache`, with the options of a `python -m dist_plm.train`."""
        parser = config_parser("train", "")
        config = config_of(parser, parser.parse_args(shlex.split(options)))
        return cls(config, Features.load(cache, "head"), "head", 0)

    def __post_init__(self) -> None:
        if self.config.train.precision == "auto":  # as all results of this bench
            self.config = replace(self.config, train=replace(self.config.train, precision="fp32"))
        self.world, phase = World(), phases(self.config)[0]
        classes = int(self.features.train_labels.max()) + 1
        self.learner = Learner(self.config, self.world, phase, classes)
        student = self.learner.student
        student.backbone = above(student.backbone, self.cut)  # type: ignore[arg-type]
        if self.with_batch_norm:
            insert_batch_norm(student.backbone, _batches(self.features.train))
            convert_batch_norm(student.backbone, self.config.model.batch_norm, self.world.sum)
        self.learner.start_heads(lambda pooled: HeldRows(self._through(pooled, self.features.train)))
        if self.change:
            labels = torch.from_numpy(self.features.train_labels.astype(np.int64))
            self.learner.method = ChangedTargets(
                self.config, self.world, self.change, labels, self.config.train.max_steps
            )

        for reading in self.readings:
            READINGS[reading](self.learner)

    def run(self) -> list[dict[str, Any]]:
        """Train; one entry an evaluation: step, recall of both networks, means of the statistics since the last."""
        steps, done, epoch = self.config.train.max_steps, 0, 0
        self._judge(0, [])
        looks: list[dict[str, float]] = []
        while done < steps:
            for batch in self._epoch(epoch):
                report = self.learner.step(batch, done, steps)
                done += 1
                if done % LOOK_EVERY == 0:
                    labels = self.features.train_labels[batch.ids.numpy()]
                    quality = batch_quality(report.loss.targets, report.z, labels, config=self.config, world=self.world)
                    looks.append(self.learner.describe(report) | quality)
                if done % self.evaluate_every == 0 or done == steps:
                    self._judge(done, looks)
                    looks = []
                if done == steps:
                    break
            epoch += 1
        return self.course

    def _epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, planned on the momentum encoder's embeddings of the training images."""
        config, method, n = self.config, self.learner.method, len(self.features.train)
        labels: np.ndarray | None = None
        around = self._around() if method.reads_gallery(config) else None
        if self.class_groups:
            plan = class_plan(self.features.train_labels.astype(np.int64), config.batch, config.seed, epoch)
        elif method.batches == "random":
            plan = random_plan(n, config.batch, config.seed, epoch)
        elif method.batches == "neighbours":
            gallery = self._gallery()
            if epoch == 0:
                method.begin(lambda: torch.tensor(gallery, dtype=self.learner.method_dtype))

            def neighbours(seeds: np.ndarray, depth: int) -> np.ndarray:
                return nearest(gallery[seeds], gallery, depth, exclude=seeds)[0]

            plan = make_plan(n, batch=config.batch, seed=config.seed, epoch=epoch, neighbours=neighbours)
        else:
            labels = self.features.train_labels.astype(np.int64)
            if method.batches == "clusters":
                gallery = self._gallery()
                labels = method.cluster(gallery)
                self.learner.relabel(gallery, labels)
            plan = class_plan(labels, config.batch, config.seed, epoch)
        for number, ids in enumerate(plan.reshape(len(plan), -1)):
            views = self._views(ids, epoch)
            known = None if labels is None else torch.from_numpy(labels[ids])
            yield Batch(number, torch.from_numpy(ids), views, known, None if around is None else around(ids))

    def _around(self) -> Callable[[np.ndarray], Tensor]:
        """Images int64 [b] -> momentum embeddings of their k nearest training images [b, k, D], as of now."""
        gallery, n = self._gallery(), len(self.features.train)
        table = nearest(gallery, gallery, self.config.manifold.k, exclude=np.arange(n))[0]
        return lambda ids: torch.from_numpy(gallery[table[ids]])

    def _views(self, ids: np.ndarray, epoch: int) -> Tensor:
        """Different views of each image, drawn anew each epoch among its crops and its evaluation view: float32
        [b * views, C, h, w], image by image."""
        count, crops = self.config.views.count, self.features.crops.shape[1]
        assert count <= crops + 1, f"{count} views of {crops} cached crops and the evaluation view"
        images = len(self.features.crops)
        chosen = chosen_views(count, crops + 1, images, seed=self.config.seed, epoch=epoch)[ids]
        cached = np.concatenate([self.features.crops[ids], self.features.train[ids][:, None]], axis=1)
        maps = cached[np.arange(len(ids))[:, None], chosen]
        return _maps(maps.reshape(-1, *maps.shape[2:]))

    def _gallery(self) -> np.ndarray:
        if "sampler" in self.readings:
            return self._through(student_g(self.learner), self.features.train).numpy()
        return self._embedded(self.learner.teacher, self.features.train, wide=bool(self.config.model.wide_dim)).numpy()

    def _embedded(self, network: nn.Module, maps: np.ndarray, *, wide: bool = False) -> Tensor:
        return self._through(self.learner.embed_with(network, wide=wide), maps)

    def _through(self, embed: Embed, maps: np.ndarray) -> Tensor:
        return torch.cat([embed(batch) for batch in _batches(maps)])

    def _label_free(self, network: nn.Module) -> dict[str, float]:
        """Statistics without labels from two random crops of each test image, where they were cached."""
        crops = self.features.test_crops
        if crops is None:
            return {}
        found = label_free(self._embedded(network, crops[:, 0]), self._embedded(network, crops[:, 1]))
        return {name: float(f"{estimate.value:.5g}") for name, estimate in found.items()}

    def _judge(self, step: int, looks: list[dict[str, float]]) -> None:
        entry: dict[str, Any] = {"step": step}
        labels = torch.from_numpy(self.features.test_labels)
        for name, network in (("student", self.learner.student), ("teacher", self.learner.teacher)):
            if step == 0 and name == "teacher":  # a copy
                entry[name] = entry["student"]
                continue
            entry[name] = _metrics(self._embedded(network, self.features.test), labels) | self._label_free(network)
        names = {name for look in looks for name in look}
        means = {name: fmean(look[name] for look in looks if name in look) for name in sorted(names)}
        self.course.append(entry | {"statistics": {name: float(f"{value:.4g}") for name, value in means.items()}})


def _metrics(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall@K by K, and MAP@R as "map_at_r", in %."""
    own = torch.arange(len(embeddings))
    found = retrieval_counts(embeddings, labels, embeddings, labels, KS, own_rows=own).metrics()
    recall = {str(k): round(100 * share, 3) for k, share in found["recall"].items()}
    return recall | {"map_at_r": round(100 * found["map_at_r"], 3)}


def _batches(maps: np.ndarray) -> Iterator[Tensor]:
    return (_maps(maps[first : first + BLOCK]) for first in range(0, len(maps), BLOCK))


def _maps(maps: np.ndarray) -> Tensor:
    return torch.from_numpy(maps.astype(np.float32)).to(memory_format=torch.channels_last)
