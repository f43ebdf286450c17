"""Evaluation during training, and its output."""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.checkpoint.position import Position
from dist_plm.evaluation.protocol import evaluate, raw_pixels
from dist_plm.index.embedding_pass import Embed
from dist_plm.model.digest import digest
from dist_plm.telemetry.parts import part
from dist_plm.training.cached_views import CachedViews
from dist_plm.training.context import RunContext
from dist_plm.training.judge import Judge
from dist_plm.training.learner import Learner


@dataclass(frozen=True)
class Score:
    """By what the best checkpoint is chosen, e.g. "teacher recall@1", and its value."""

    by: str
    value: float


@dataclass
class Evaluator:
    """Evaluates the networks of a run: with the labels of its test split, and without labels."""

    run: RunContext
    views: CachedViews | None = None
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = Judge(self.run)

    @part("evaluation")
    def evaluate(self, learner: Learner, at: Position, when: str, *, with_pixels: bool = False) -> Score | None:
        """Evaluate student and teacher, and at step 0 also the frozen features, and raw pixels on request. A
        collective.

        Returns:
            The score of the network that `checkpoint.keep_best` names, None without one.
        """
        config = self.run.config
        deciding: Score | None = None
        # The baseline that training has to beat: the pretrained features.
        frozen = when == "start" and bool(config.model.weights or not learner.encoder.known)
        hits: dict[str, np.ndarray] = {}
        for name in [*["raw pixels"] * with_pixels, *["frozen"] * frozen]:
            embed, weights = _baseline(name, learner)
            self._recall(name, embed, weights, at, when, hits)
        for name in ("student", "teacher"):
            network = learner.whole(name)
            embed, front, score = learner.embed_with(network), self._front(learner), None
            recall = self._recall(name, embed, digest(network), at, when, hits)
            if when != "start":
                score = self.judge.look(embed, front, at, name, when, hits.get(name))
            elif name == "student":
                self.judge.start(embed, front, at, {"start" if model == name else model: hits[model] for model in hits})
            if name == config.checkpoint.keep_best:
                by_views = config.checkpoint.best_by == "label_free" or recall is None
                if by_views and config.checkpoint.best_by != "recall":
                    deciding = None if score is None else Score(f"{name} view recall", score)
                else:
                    deciding = None if recall is None else Score(f"{name} recall@{min(config.evaluation.ks)}", recall)
        return deciding

    def _recall(
        self, name: str, embed: Embed, weights: str, at: Position, when: str, hits: dict[str, np.ndarray]
    ) -> float | None:
        """Recall at the smallest K on the test split, None without labels; adds the hits to `hits`."""
        run, display, started = self.run, self.run.log.display, time.monotonic()
        folder = run.directory.sweep(weights)
        source = self.views.source if self.views and name != "raw pixels" else None
        evaluation = evaluate(embed, folder, config=run.config, world=run.world, display=display, source=source)
        if evaluation is None:
            if when == "start" and name == "student" and run.config.data.test_split:
                display.say("no recall: no query of the test split has another image of its class")
            return None
        result, hits[name] = evaluation.result, evaluation.hits
        seconds = time.monotonic() - started
        run.log.metrics.write("eval", step=at.step, epoch=at.epochs, model=name, when=when, **result, seconds=seconds)
        recall = "  ".join(f"R@{k} {100 * share:5.2f}" for k, share in result["recall"].items())
        display.say(f"{when:>20}  {name:<10}  {recall}  MAP@R {100 * result['map_at_r']:5.2f}")
        return next(iter(result["recall"].values()))

    def _front(self, learner: Learner) -> Embed | None:
        """The frozen part, if the trained part reads cached features; else None."""
        frozen = learner.frozen
        if self.views is None or frozen is None:
            return None

        @torch.no_grad()
        def front(views: Tensor) -> Tensor:
            with learner.strategy.autocast():  # not `embed_constant`, which may be laid out for batches of training
                return frozen(views)

        return front


def _baseline(name: str, learner: Learner) -> tuple[Embed, str]:
    """The embedding function of this baseline, and the digest of its weights. A collective."""
    if name == "raw pixels":
        return raw_pixels, "pixels"
    part = learner.strategy.whole(learner.student)
    pooled = learner.pooled_by(part)
    return lambda views: normalize(pooled(views)), f"{digest(part)}_frozen"
