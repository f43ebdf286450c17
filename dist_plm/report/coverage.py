"""Coverage of the training images, from the saved plans."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Coverage:
    """Reads of the training images.

    Attributes:
        reads: int64 [n], how often each image was in a plan.
        epochs: (epoch, share of the images in its plan, share in any plan up to it).
    """

    reads: np.ndarray
    epochs: list[tuple[int, float, float]]

    def histogram(self) -> list[tuple[int, int]]:
        """(reads, images), for every number of reads that occurs."""
        values, counts = np.unique(self.reads, return_counts=True)
        return list(zip(values.tolist(), counts.tolist(), strict=True))


def read_coverage(plans: Path, images: int) -> Coverage | None:
    """Read RUN/plans; None if there is no plan, or one of other images."""
    reads = np.zeros(images, dtype=np.int64)
    epochs = []
    for path in sorted(plans.glob("epoch_*.npy")):
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
        if ids.size and ids.max() >= images:
            return None
        epoch_reads = np.bincount(ids.reshape(-1), minlength=images)
        reads += epoch_reads
        epochs.append(
            (int(path.stem.removeprefix("epoch_")), float((epoch_reads > 0).mean()), float((reads > 0).mean()))
        )
    return Coverage(reads, epochs) if epochs else None
