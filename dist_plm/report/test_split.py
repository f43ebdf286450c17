"""Embeddings of a run's images by its student."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import UserError
from dist_plm.index.embedding_pass import sweep
from dist_plm.model.digest import digest
from dist_plm.telemetry.progress import Display


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split and the student's embeddings of it, float32 [n, D]."""

    store: Store
    vectors: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.store.labels)

    def name(self, row: int) -> str:
        """The class of an image; empty if unlabelled."""
        label = int(self.labels[row])
        return self.store.classes[label] if label >= 0 else ""


def embed(
    student: Embedder, run: Path, store: Store, *, config: Config, world: World, display: Display
) -> EmbeddedSplit:
    """The student's embeddings of a split: those of the run's last evaluation if they still exist.

    Raises:
        UserError: Some are not finite.
    """
    kept = run / "sweeps" / digest(student.network)
    with tempfile.TemporaryDirectory(prefix="report_") as folder:
        vectors = sweep(
            student.embed,
            store,
            kept if (kept / store.split).is_dir() else Path(folder),
            config=config,
            world=world,
            display=display,
            title=f"embed {store.split}",
        ).whole()
    require_finite(vectors, "student")
    return EmbeddedSplit(store, vectors)


def require_finite(vectors: np.ndarray, network: str) -> None:
    """Raise UserError if embeddings by `network` are not finite."""
    if not np.isfinite(vectors).all():
        raise UserError(f"the {network}'s embeddings are not finite: it diverged; train with a lower optimiser.lr")
