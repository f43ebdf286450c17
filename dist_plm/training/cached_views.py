"""Training on cached features: the frozen part embeds a fixed set of views of each image once, stored on disk.

N random views and the evaluation view of each training image, and the evaluation view of each test image, pass through
the frozen part in resumable embedding passes. Epochs then read rows instead of images: nothing is decoded, and only
the trainable part computes.

    FOLDER/KEY_view0/train/ids_....npy     input of the trainable part, flattened [samples, F]
    FOLDER/KEY_eval/train/... FOLDER/KEY_eval/test/...

FOLDER is RUN_DIR/features, or features/ in `data.cache_dir`, shared by the runs of a node: views have a seed of their
own, and KEY is a hash of the images, the view settings and the frozen weights.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dist_plm.config import Config, ViewsConfig
from dist_plm.data.loader import Batch
from dist_plm.data.store import Store
from dist_plm.data.views import train_view
from dist_plm.distributed.world import World
from dist_plm.index.batch_sources import Source, from_images, from_rows
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.embedding_pass import sweep
from dist_plm.model.digest import digest
from dist_plm.telemetry.progress import Display
from dist_plm.training.learner import Learner

Around = Callable[[np.ndarray], np.ndarray]
VIEWS_SEED = 0  # independent of the run's seed, so that runs with other seeds share the cache


class CachedViews:
    """The cached features of a run. Methods that compute features are collectives.

    Args:
        learner: Provides the frozen part.
    """

    def __init__(self, config: Config, learner: Learner, world: World, display: Display) -> None:
        assert learner.frozen is not None
        self._config, self._frozen, self._world, self._display = config, learner.frozen, world, display
        self._learner = learner
        shared_cache = bool(config.data.cache_dir) and world.size == world.node_size
        self.folder = Path(config.data.cache_dir if shared_cache else config.run_dir) / "features"
        self._weights = digest(learner.frozen_state())
        size, weight = config.views.size, learner.encoder.head.weight
        image = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
        self.shape = tuple(self._frozen(image).shape[1:])
        self._train: list[Embeddings] = []

    def fill(self, store: Store) -> None:
        """Compute the missing features of the training images.

        Raises:
            Preempted: A rank caught a signal; computed features are kept.
        """
        random = [
            self._swept(store, f"view{number}", f"features of view {number + 1} of {self._config.views.cached}", number)
            for number in range(self._config.views.cached)
        ]
        self._train = [*random, self._swept(store, "eval", f"features of {store.split}")]

    def source(self, store: Store) -> Source:
        """Features of a split's evaluation views, for an embedding pass through the trainable part."""
        rows = self._swept(store, "eval", f"features of {store.split}")
        return from_rows(rows, self.shape, self._config.evaluation.batch_size)

    def batches(
        self, plan_rows: np.ndarray, labels: np.ndarray | None, around: Around | None, *, epoch: int, first_step: int
    ) -> "CachedBatches":
        """The batches of an epoch from `first_step` on, as from Loader.

        Args:
            plan_rows: int64 [steps, b], this rank's sample ids of every step.
            labels: int64 [n], classes of all images, returned with the batches; or None.
            around: As in Loader.
        """
        count, candidates = self._config.views.count, len(self._train)
        chosen = chosen_views(count, candidates, len(self._train[0]), seed=self._config.seed, epoch=epoch)
        return CachedBatches(self._train, self.shape, plan_rows, chosen, labels, around, first_step)

    def _swept(self, store: Store, name: str, title: str, view: int | None = None) -> Embeddings:
        config = self._config
        cut = None if view is None else partial(_view, config=config.views, view=view)
        return sweep(
            self._features,
            store,
            self.folder / f"{self._key(store, view)}_{name}",
            config=config,
            world=self._world,
            display=self._display,
            title=title,
            precision=config.index.precision,
            source=from_images(config, cut),
        )

    def _features(self, views: Tensor) -> Tensor:
        with self._learner.strategy.autocast():
            return self._frozen(views).flatten(1)

    def _key(self, store: Store, view: int | None) -> str:
        views = self._config.views
        # The evaluation view does not depend on the augmentation settings.
        settings = (views.size, views.resize, views.interpolation, *(() if view is None else astuple(views)))
        # Pooling has no weights, and belongs to the frozen part where the head alone is trained.
        network = (self._weights, self._config.model.backbone, self._config.model.pooling)
        facts = (store.fingerprint, network, self._config.train.precision, self._config.index.precision, settings)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


class CachedBatches:
    """Batches of an epoch from cached features. Made by `CachedViews.batches`.

    Attributes:
        wait_seconds: 0, since rows are read synchronously.
    """

    wait_seconds = 0.0

    def __init__(
        self, views: list[Embeddings], shape: tuple[int, ...], plan_rows: np.ndarray, chosen: np.ndarray,
        labels: np.ndarray | None, around: Around | None, first_step: int,
    ) -> None:  # fmt: skip
        self._views, self._shape, self._plan_rows, self._chosen = views, shape, plan_rows, chosen
        self._labels, self._around, self._first_step = labels, around, first_step

    def __len__(self) -> int:
        return max(0, len(self._plan_rows) - self._first_step)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self._first_step, len(self._plan_rows)):
            ids = np.array(self._plan_rows[step])
            chosen = self._chosen[ids]  # [b, count]
            rows = np.empty((*chosen.shape, self._views[0].dim), np.float32)
            for number, view in enumerate(self._views):
                which = np.nonzero(chosen == number)
                if len(which[0]):
                    rows[which] = view.take(ids[which[0]])
            labels = None if self._labels is None else torch.from_numpy(np.asarray(self._labels[ids], np.int64))
            neighbours = None if self._around is None else torch.from_numpy(self._around(ids))
            features = torch.from_numpy(rows.reshape(-1, *self._shape))
            yield Batch(step, torch.from_numpy(ids), features, labels, neighbours)


def chosen_views(count: int, candidates: int, images: int, *, seed: int, epoch: int) -> np.ndarray:
    """Cached views that each image uses in an epoch, without repetition: int64 [images, count]."""
    key, counter = np.array([seed, 5], dtype=np.uint64), np.array([0, 0, 0, epoch], dtype=np.uint64)
    draw = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return draw.random((images, candidates)).argsort(axis=1)[:, :count]


def _view(image: Image.Image, id: int, *, config: ViewsConfig, view: int) -> np.ndarray:
    return train_view(image, config=config, seed=VIEWS_SEED, epoch=0, sample=id, view=view)
