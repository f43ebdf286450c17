"""The images of a `fit`: number, size, labels, duplicates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_plm.config import Config, DataConfig
from dist_plm.data.format import CHECK_DTYPE, Manifest, checks_path
from dist_plm.data.opening import open_split
from dist_plm.data.store import table
from dist_plm.errors import UserError

TRAIN = "train"
SAMPLED = 64  # images whose size is looked at


@dataclass(frozen=True)
class Collection:
    """The images of a data set, of which those of the split `train` are trained on.

    Args:
        shards: Its folder.
        splits: Number of images of each split.
        classes: Number of classes with at least two images; 0 where nothing is labelled.
        side: Median of the shorter side of a sample, pixels.
        copies: Images whose file is byte for byte that of another.
        rejected: Files that are no readable images.
    """

    shards: str
    splits: Mapping[str, int]
    classes: int
    side: int
    copies: int
    rejected: int

    @property
    def images(self) -> int:
        """Number of training images."""
        return self.splits[TRAIN]

    def judged(self, config: Config) -> int:
        """How many images `data.test_split` and `data.gallery_split` name."""
        return sum(self.splits.get(split, 0) for split in {config.data.test_split, config.data.gallery_split})

    def __str__(self) -> str:
        labels = f"{self.classes:,} classes" if self.classes else "no labels"
        parts = [f"{self.images:,} images to train on", labels, f"shorter side {self.side} px (median)"]
        if self.copies:
            parts.append(f"{self.copies:,} exact duplicates")
        if self.rejected:
            parts.append(f"{self.rejected:,} unreadable files skipped")
        return ", ".join(parts)


def examine(shards: str) -> Collection:
    """Look at a data set; reads a sample of its images.

    Raises:
        UserError: It has no training split, or can't be read.
    """
    manifest = Manifest.load(shards)
    if TRAIN not in manifest.splits:
        raise UserError(f"{shards} has the splits {', '.join(manifest.splits)}, but no {TRAIN}: put images to train on "
                        "into a folder of that name")  # fmt: skip
    with open_split(DataConfig(shards=shards), TRAIN) as store:
        labels = np.asarray(store.labels)
        _, counts = np.unique(labels[labels >= 0], return_counts=True)
        sample = np.linspace(0, len(store) - 1, min(SAMPLED, len(store))).astype(int)
        sides = [min(store.read_image(int(id)).size) for id in sample]
    return Collection(
        shards=shards,
        splits={name: split.samples for name, split in manifest.splits.items()},
        classes=int((counts > 1).sum()) if (counts > 1).sum() > 1 else 0,
        side=int(np.median(sides)),
        copies=_copies(Path(shards), len(labels)),
        rejected=manifest.rejected,
    )


def _copies(shards: Path, images: int) -> int:
    path = checks_path(shards, TRAIN)
    if not path.exists():  # of an older version
        return 0
    return images - len(np.unique(table(path, CHECK_DTYPE, images)))
