"""Cache the maps of the frozen trunk: some random crops and the evaluation view of each image, as fp16.

    python -m benchmarks.reproduction.features --out CACHE --crops 2 --classes 50 --config configs/cub200.yaml \
        --data.shards data/cub200 --model.weights bvlc_googlenet_fp16.safetensors --views.size 112 --views.resize 128

Of the training split the first `--classes` classes are taken (0: all), of the test split all. A folder for each cut
(see cut.py) with crops.npy [n, crops, C, h, w], train.npy [n, C, h, w] and test.npy [m, C, h, w]; beside them the
labels. With `--test_crops N` also test_crops.npy, random crops of the test images, for what can be said without labels.
What is there already is not computed again.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.reproduction.cut import BLOCKS, CUTS, below
from dist_plm.cli import config_of, config_parser
from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.data.views import eval_view, train_view
from dist_plm.model.backbones import build_backbone
from dist_plm.model.bvlc_googlenet import BvlcGooglenet

BLOCK = 100  # images in a forward pass


@dataclass(frozen=True)
class Features:
    """What the trained part of the network sees, memory-mapped.

    Args:
        crops: float16 [n, crops, C, h, w] of random crops of the training images.
        train: float16 [n, C, h, w] of their evaluation views.
        test: float16 [m, C, h, w] of the evaluation views of the test images.
        test_crops: float16 [m, crops, C, h, w] of their random crops; None where they were not asked for.
        train_labels: int [n]; only supervised controls and statistics look at them.
        test_labels: int [m].
    """

    crops: np.ndarray
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    test_crops: np.ndarray | None = None

    @classmethod
    def load(cls, folder: Path, cut: str) -> "Features":
        """The maps that enter `cut`."""
        maps = [np.load(folder / cut / f"{name}.npy", mmap_mode="r") for name in ("crops", "train", "test")]
        features = cls(*maps, *(np.load(folder / f"{split}_labels.npy") for split in ("train", "test")))
        crops = folder / cut / "test_crops.npy"
        return replace(features, test_crops=np.load(crops, mmap_mode="r")) if crops.exists() else features

    def on_test(self) -> "Features":
        """The test images in place of the training images: without labels, a user's own folder is both."""
        assert self.test_crops is not None, "features were cached without --test_crops"
        labels = self.test_labels - self.test_labels.min()
        return replace(self, crops=self.test_crops, train=self.test, train_labels=labels)


def write(config: Config, folder: Path, crops: int, classes: int, test_crops: int = 0) -> None:
    """Fill the folder."""
    backbone = build_backbone(config.model)
    assert isinstance(backbone, BvlcGooglenet), "the bench knows where to cut bvlc_googlenet alone"
    backbone.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    folder.mkdir(parents=True, exist_ok=True)
    views = {"crops": crops, "train": 0, "test": 0}  # random crops of an image; 0: its evaluation view
    if test_crops:
        views["test_crops"] = test_crops
    for name, count in views.items():
        test = name.startswith("test")
        split = config.data.test_split if test else config.data.train_split
        with Store(config.data.shards, split) as store:
            labels = np.asarray(store.labels)
            ids = np.flatnonzero(labels < (classes or len(store.classes)) if not test else labels >= 0)
            np.save(folder / f"{'test' if test else 'train'}_labels.npy", labels[ids])
            if not all((folder / cut / f"{name}.npy").exists() for cut in CUTS):
                _save(backbone, _pixels(store, ids, config, count), len(ids), folder, name, count)


@torch.inference_mode()
def _save(backbone: BvlcGooglenet, pixels: Iterator[Tensor], count: int, folder: Path, name: str, crops: int) -> None:
    files: dict[str, np.memmap] = {}
    trunk, row = below(backbone), 0
    for images in pixels:
        maps = trunk(images.to(memory_format=torch.channels_last))
        for cut, block in zip(CUTS, [*BLOCKS, None], strict=True):
            shape = (count, *([crops] if crops else []), *maps.shape[1:])
            if cut not in files:
                (folder / cut).mkdir(exist_ok=True)
                path = folder / cut / f"{name}.partial.npy"
                files[cut] = np.lib.format.open_memmap(path, "w+", np.float16, shape)
            rows = maps.half().numpy().reshape(-1, *shape[1:])
            files[cut][row : row + len(rows)] = rows
            maps = maps if block is None else _apply(getattr(backbone, block), maps)
        row += len(rows)
        print(f"{name} {row} of {count}", end="\r", flush=True)
    for cut, file in files.items():
        file.flush()
        (folder / cut / f"{name}.partial.npy").rename(folder / cut / f"{name}.npy")
    print()


def _apply(block: nn.Module, maps: Tensor) -> Tensor:
    # Of the rounded maps: a run that begins at a lower cut sees the same numbers.
    return block(maps.half().float())


def _pixels(store: Store, ids: np.ndarray, config: Config, crops: int) -> Iterator[Tensor]:
    """uint8 [b, 3, size, size], image by image, an image's crops side by side."""

    def views(id: int) -> list[np.ndarray]:
        image = store.read_image(id)
        if not crops:
            return [eval_view(image, config=config.views)]
        draw: dict[str, Any] = {"config": config.views, "seed": config.seed, "epoch": 0, "sample": id}
        return [train_view(image, **draw, view=view) for view in range(crops)]

    with ThreadPoolExecutor(1) as pool:
        for first in range(0, len(ids), BLOCK):
            found = pool.map(views, ids[first : first + BLOCK].tolist())
            yield torch.from_numpy(np.stack([view for image in found for view in image]))


def main() -> None:
    """Read the command line and write."""
    parser = config_parser("train", __doc__ or "")
    parser.add_argument("--out", type=str, required=True, help="folder of the cache")
    parser.add_argument("--crops", type=int, default=2, help="random crops of an image")
    parser.add_argument("--classes", type=int, default=0, help="of the training split; 0: all")
    parser.add_argument("--test_crops", type=int, default=0, help="random crops of a test image")
    parsed = parser.parse_args()
    write(config_of(parser, parsed), Path(parsed.out), parsed.crops, parsed.classes, parsed.test_crops)


if __name__ == "__main__":
    main()
