"""Held-out images that a run embeds at its start and at every evaluation, to compare networks without labels.

They are images of the test split, whose labels are not read; without a test split a fixed sample of the training
images, in views that training never draws. These images are also trained on, since they are the ones to be searched.

Their embeddings by the initial network are stored in RUN/start (start_record.py).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config, DataConfig
from dist_plm.data.opening import open_split
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view, train_view
from dist_plm.evaluation.label_free import STRONG_RECALL, Estimate, TwoViews, neighbours
from dist_plm.index.embedding_pass import Embed
from dist_plm.training.context import RunContext
from dist_plm.training.phases import run_steps

NEVER = 2**64 - 1  # an epoch number that training never reaches, so that its random views are only used here
FEWEST, MOST = 300, 2_000  # images; fewer than FEWEST only if the split has no more
SHARE = 0.05  # of the forward passes of training, if that is more than FEWEST images
LEAST = 20  # images; with fewer, sets of 10 neighbours are meaningless
VIEWS = ("evaluation", "first", "second", "strong_first", "strong_second")
STRONG = {"scale": (0.05, 0.25), "brightness": 0.4}  # strong views: small crops, changed brightness and contrast
KEPT_BYTES = 1 << 28  # features of the frozen part that a rank caches between evaluations


@dataclass(frozen=True)
class HeldOutViews:
    """Embeddings of the held-out images, float32 [n, D] each: evaluation view, two random and two strong views."""

    evaluation: Tensor
    first: Tensor
    second: Tensor
    strong_first: Tensor
    strong_second: Tensor

    @cached_property
    def pair(self) -> TwoViews:
        """The random views, as training draws them."""
        return TwoViews(self.first, self.second)

    @cached_property
    def strong(self) -> TwoViews:
        """The strong views."""
        return TwoViews(self.strong_first, self.strong_second)

    def statistics(self) -> dict[str, Estimate]:
        """Statistics of the random views, and `strong_view_recall`."""
        return self.pair.statistics() | {STRONG_RECALL: self.strong.recall()}

    def change_since(self, start: "HeldOutViews") -> dict[str, Estimate]:
        """Paired changes of the same statistics."""
        return self.pair.change_since(start.pair) | {STRONG_RECALL: self.strong.recall_since(start.strong)}

    @property
    def neighbours(self) -> Tensor:
        """Nearest images by the evaluation views, int64 [n, depth]."""
        return neighbours(self.evaluation)


class HeldOut:
    """The held-out images of a run.

    Attributes:
        store: The split that they are from.
        ids: int64 [n], ascending.
    """

    def __init__(self, run: RunContext) -> None:
        self._run, config = run, run.config
        self.store: Store = held_out_store(config.data, run.store)
        wanted = min(held_out_count(config, len(run.store)), len(self.store))
        draw = np.random.default_rng(config.seed).permutation(len(self.store))
        self.ids = np.sort(draw[:wanted])
        self._features: dict[int, list[Tensor]] = {}

    @property
    def described(self) -> str:
        """Number and split of the images, for messages."""
        split = self.store.split
        return f"{len(self.ids):,} images of split {split}" + (" (trained on)" if self.store is self._run.store else "")

    def embed(self, embed: Embed, front: Embed | None = None) -> HeldOutViews:
        """Embeddings by a network of images [b, 3, s, s], gathered on all ranks. A collective.

        Batches are the same at any world size, so embeddings are bitwise identical.

        Args:
            front: The frozen part of the network, whose output is the input of `embed`.

        Raises:
            Preempted: a rank received a signal to exit.
        """
        world, size = self._run.world, self._run.config.evaluation.batch_size
        parts = np.split(self.ids, range(size, len(self.ids), size))
        local_parts: dict[int, np.ndarray] = {}
        with self._run.log.display.phase("held-out images", len(parts), "batches") as bar:
            for number in range(world.rank, len(parts), world.size):
                if world.signal:
                    break
                rows = [embed(views.to(world.device)).float().cpu() for views in self._entering(parts[number], front)]
                local_parts[number] = torch.stack(rows).numpy()
                bar.advance(scale=world.size)
        world.leave_if_signalled()
        by_part: dict[int, np.ndarray] = {}
        for rank_parts in world.gather_objects(local_parts):
            by_part |= rank_parts
        whole = torch.from_numpy(np.concatenate([by_part[number] for number in range(len(parts))], axis=1))
        return HeldOutViews(*whole)

    def _entering(self, ids: np.ndarray, front: Embed | None) -> Iterator[Tensor]:
        """Inputs of `embed` for some images, in the order of VIEWS; features of `front` are cached if they fit."""
        if front is None:
            yield from self._views(ids)
        elif (kept := self._features.get(int(ids[0]))) is not None:
            yield from kept
        else:
            features = [front(views.to(self._run.world.device)).cpu() for views in self._views(ids)]
            held = sum(part.nbytes for parts in (*self._features.values(), features) for part in parts)
            if held <= KEPT_BYTES:
                self._features[int(ids[0])] = features
            yield from features

    def _views(self, ids: np.ndarray) -> Iterator[Tensor]:
        """Views uint8 [b, 3, s, s] of some images, in the order of VIEWS."""
        config, store = self._run.config, self.store
        strong = replace(config.views, **STRONG)  # type: ignore[arg-type]

        def cut(id: int) -> list[np.ndarray]:
            image = store.read_image(id)
            drawn = [
                train_view(image, config=views, seed=config.seed, epoch=NEVER, sample=id, view=view)
                for view, views in enumerate((config.views, config.views, strong, strong))
            ]
            return [eval_view(image, config=config.views), *drawn]

        with ThreadPoolExecutor(config.data.workers) as pool:
            images = list(pool.map(cut, ids.tolist()))
        return (torch.from_numpy(np.stack(views)) for views in zip(*images, strict=True))


def held_out_store(data: DataConfig, train: Store | None = None) -> Store:
    """The split of the held-out images: the test split, or the training split if that has fewer than LEAST images.

    Args:
        train: The training split, if it is already open.

    Raises:
        UserError: The split can't be read.
    """
    test = open_split(data, data.test_split) if data.test_split else None
    if test is not None and len(test) >= LEAST:
        return test
    return open_split(data, data.train_split) if train is None else train


def held_out_count(config: Config, images: int) -> int:
    """Number of held-out images: at least FEWEST, more while they cost at most SHARE of the training time."""
    train, views = config.train, config.views.count
    epochs, steps = config.warm_up.epochs + train.epochs, run_steps(config, images)
    evaluations = 2 + bool(config.warm_up.epochs) + epochs // train.evaluate_epochs
    # A step costs about three forward passes per view. With cached features the cost is computing the features.
    passes = (config.views.cached + 1) * images if config.views.cached else 3 * steps * config.batch.images * views
    return int(min(MOST, max(FEWEST, SHARE * passes / (len(VIEWS) * 2 * evaluations))))
