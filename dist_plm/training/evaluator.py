"""What is evaluated while a run is under way, and what is said of it."""

import time
from dataclasses import dataclass

from torch.nn.functional import normalize

from dist_plm.checkpoint.position import Position
from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.evaluation.protocol import evaluate, raw_pixels
from dist_plm.index.embedding_pass import Embed
from dist_plm.model.digest import digest
from dist_plm.telemetry.metrics import Metrics
from dist_plm.telemetry.progress import Display
from dist_plm.training.cached_views import CachedViews
from dist_plm.training.learner import Learner
from dist_plm.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the networks of a run on its test split; without labels there, it says so."""

    config: Config
    directory: RunDirectory
    world: World
    display: Display
    metrics: Metrics
    views: CachedViews | None = None

    def evaluate(self, learner: Learner, at: Position, when: str, *, with_pixels: bool = False) -> float | None:
        """Evaluate student and teacher; at the start before them the frozen features, and raw pixels if asked for. A
        collective.

        Returns:
            Recall, at the smallest K, of the network that `checkpoint.keep_best` names; None where there is none.
        """
        deciding = None
        # Before the first step also what has to be beaten: the pretrained features as they are.
        frozen = when == "start" and bool(self.config.model.weights or not learner.encoder.known)
        for name in (*["raw pixels"] * with_pixels, *["frozen"] * frozen, "student", "teacher"):
            embed, weights = _named(name, learner)
            folder, started = self.directory.sweep(weights), time.monotonic()
            source = self.views.source if self.views and name != "raw pixels" else None
            result = evaluate(embed, folder, config=self.config, world=self.world, display=self.display, source=source)
            if result is None:
                self.display.say("no query of a test split has an image of its class to find: nothing to evaluate")
                return None
            seconds = time.monotonic() - started
            self.metrics.write("eval", step=at.step, epoch=at.epochs, model=name, when=when, **result, seconds=seconds)
            recall = "  ".join(f"R@{k} {100 * share:5.2f}" for k, share in result["recall"].items())
            self.display.say(f"{when:>20}  {name:<10}  {recall}  MAP@R {100 * result['map_at_r']:5.2f}")
            if name == self.config.checkpoint.keep_best:
                deciding = next(iter(result["recall"].values()))
        return deciding


def _named(name: str, learner: Learner) -> tuple[Embed, str]:
    """What embeds under this name, and the name of its weights. A collective."""
    if name == "raw pixels":
        return raw_pixels, "pixels"
    if name == "frozen":
        return lambda views: normalize(learner.pooled(views)), f"{digest(learner.encoder.backbone)}_frozen"
    network = learner.whole(name)
    return learner.embed_with(network), digest(network)
