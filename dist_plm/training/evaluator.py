"""Evaluation during training, and its output."""

import time
from dataclasses import dataclass

from torch.nn.functional import normalize

from dist_plm.checkpoint.position import Position
from dist_plm.evaluation.protocol import evaluate, raw_pixels
from dist_plm.index.embedding_pass import Embed
from dist_plm.model.digest import digest
from dist_plm.training.cached_views import CachedViews
from dist_plm.training.context import RunContext
from dist_plm.training.learner import Learner


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the networks of a run on its test split, if the split has labels."""

    run: RunContext
    views: CachedViews | None = None

    def evaluate(self, learner: Learner, at: Position, when: str, *, with_pixels: bool = False) -> float | None:
        """Evaluate student and teacher, and at step 0 also the frozen features, and raw pixels on request. A
        collective.

        Returns:
            Recall at the smallest K of the network that `checkpoint.keep_best` names; None without one.
        """
        deciding, config, display = None, self.run.config, self.run.log.display
        # The baseline that training has to beat: the pretrained features.
        frozen = when == "start" and bool(config.model.weights or not learner.encoder.known)
        for name in (*["raw pixels"] * with_pixels, *["frozen"] * frozen, "student", "teacher"):
            embed, weights = _named(name, learner)
            folder, started = self.run.directory.sweep(weights), time.monotonic()
            source = self.views.source if self.views and name != "raw pixels" else None
            result = evaluate(embed, folder, config=config, world=self.run.world, display=display, source=source)
            if result is None:
                display.say("no evaluation: no query of the test split has another image of its class")
                return None
            seconds = time.monotonic() - started
            self.run.log.metrics.write(
                "eval", step=at.step, epoch=at.epochs, model=name, when=when, **result, seconds=seconds
            )
            recall = "  ".join(f"R@{k} {100 * share:5.2f}" for k, share in result["recall"].items())
            display.say(f"{when:>20}  {name:<10}  {recall}  MAP@R {100 * result['map_at_r']:5.2f}")
            if name == config.checkpoint.keep_best:
                deciding = next(iter(result["recall"].values()))
        return deciding


def _named(name: str, learner: Learner) -> tuple[Embed, str]:
    """The embedding function of this network, and the digest of its weights. A collective."""
    if name == "raw pixels":
        return raw_pixels, "pixels"
    if name == "frozen":
        part = learner.strategy.whole(learner.student)
        pooled = learner.pooled_by(part)
        return lambda views: normalize(pooled(views)), f"{digest(part)}_frozen"
    network = learner.whole(name)
    return learner.embed_with(network), digest(network)
