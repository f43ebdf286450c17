"""Results of the initial network, with which later networks are compared: RUN/start, a few MB.

held_out.csv                     path,label of the held-out images, to be filled in for `evaluate --labels`
held_out.npy, held_out_ids.npy   float32 [5, n, D], embeddings of the held-out images, and their ids int64 [n]
hits_NAME.npy                    int8 [Q], which test queries found their class (1, 0; -1: does not count), by the
                                 start, the frozen features or raw pixels
"""

import csv
import io
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dist_plm.files.atomic import replacing
from dist_plm.files.reading import map_array
from dist_plm.training.held_out import VIEWS, HeldOutViews


@dataclass(frozen=True)
class StartRecord:
    """The files of one run; what is missing or damaged is None, as in a run that an older version began."""

    folder: Path

    def clear(self) -> None:
        """Remove the results of a start that was interrupted, perhaps with other settings; on one rank."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save_views(self, ids: np.ndarray, views: HeldOutViews) -> None:
        """Keep the embeddings of the held-out images; on one rank."""
        self._save("held_out_ids", ids)
        self._save("held_out", torch.stack([getattr(views, name) for name in VIEWS]).numpy())

    def save_list(self, sources: list[str]) -> None:
        """Write held_out.csv, a list of the held-out images to be labelled for `evaluate --labels`; on one rank."""
        self.folder.mkdir(exist_ok=True)
        text = io.StringIO()
        csv.writer(text).writerows([("path", "label"), *((source, "") for source in sources)])
        with replacing(self.folder / "held_out.csv") as file:
            file.write(text.getvalue().encode(errors="surrogateescape"))

    def views(self) -> HeldOutViews | None:
        """The embeddings that `save_views` kept."""
        arrays = self._load("held_out")
        if arrays is None or arrays.ndim != 3 or len(arrays) != len(VIEWS):
            return None
        return HeldOutViews(*torch.from_numpy(np.array(arrays)))

    def ids(self, images: int) -> np.ndarray | None:
        """The ids that `save_views` kept, if they are of a split of so many images."""
        ids = self._load("held_out_ids")
        fits = (
            ids is not None and ids.ndim == 1 and ids.dtype == np.int64 and len(ids) and 0 <= ids[0] <= ids[-1] < images
        )
        return np.array(ids) if fits else None

    def save_hits(self, name: str, hits: np.ndarray) -> None:
        """Keep which queries were found under a name; on one rank."""
        self._save(_file(name), hits)

    def hits(self, name: str) -> np.ndarray | None:
        """Hits stored by `save_hits`, int8 [Q]."""
        hits = self._load(_file(name))
        return None if hits is None or hits.ndim != 1 else np.array(hits)

    def _save(self, name: str, array: np.ndarray) -> None:
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / f"{name}.npy") as file:
            np.save(file, array)

    def _load(self, name: str) -> np.ndarray | None:
        with suppress(OSError, ValueError):
            return map_array(self.folder / f"{name}.npy")
        return None


def _file(name: str) -> str:
    return f"hits_{name.replace(' ', '_')}"
