"""An index directory: embeddings, names and an exact FAISS index, with the network that a query needs.

DIR/
    embeddings.npy      float32 [N, D], rows of unit length
    images.jsonl        one line a row: name, label where there is one, id in the shards
    unreadable.jsonl    name and reason of each image that was left out
    index.faiss         IndexFlatIP over the rows: inner product, which is the cosine here
    encoder/            the network as an export (encoders/exported.py)
    index.json          N, D, where the images are, bytes of each file
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from dist_plm.data.decode import decode
from dist_plm.data.views import eval_view
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.exported import read_export
from dist_plm.errors import UserError
from dist_plm.search_index.images import Images, reopen

FORMAT = 1
SUMMARY, EMBEDDINGS, ROWS, UNREADABLE, INDEX, ENCODER = (
    *("index.json", "embeddings.npy", "images.jsonl", "unreadable.jsonl", "index.faiss", "encoder"),
)
_AGAIN = "make the index again: python -m dist_plm.embed"


@dataclass(frozen=True)
class Neighbour:
    """An image near a query.

    Args:
        rank: 1 is the nearest.
        row: Its row in the index.
        name: Path or source of the image.
        label: Its class, or None.
        cosine: Of the angle between the embeddings.
        distance: Between them, 0 to 2.
    """

    rank: int
    row: int
    name: str
    label: str | None
    cosine: float
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Catalogue:
    """An index directory, opened to be searched.

    Args:
        folder: Written by `python -m dist_plm.embed`.
        device: Where queries are embedded.

    Attributes:
        embedder: The network.
        embeddings: float32 [N, D], memory-mapped.
        rows: What is known of each image: `name`, perhaps `label`.
        summary: index.json.

    Raises:
        UserError: No index there, or a damaged one.
    """

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.folder = Path(folder)
        self.summary = _summary(self.folder)
        self.embedder: Embedder = read_export(self.folder / ENCODER, device or torch.device("cpu"))
        try:
            self.embeddings = np.load(self.folder / EMBEDDINGS, mmap_mode="r")
            with (self.folder / ROWS).open(encoding="utf-8") as lines:
                self.rows = [{"name": str(row["name"]), **row} for row in map(json.loads, lines)]
            self._index: Any = faiss.read_index(str(self.folder / INDEX))
            shape = (int(self.summary["count"]), int(self.summary["dim"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:160]
            raise UserError(f"{self.folder} is a damaged index ({reason}): {_AGAIN}") from error
        shapes = {
            EMBEDDINGS: self.embeddings.shape,
            ROWS: (len(self.rows), shape[1]),
            INDEX: (self._index.ntotal, self._index.d),
            ENCODER: (shape[0], self.embedder.dim),
        }
        for file, found in shapes.items():
            if found != shape:
                raise UserError(f"{self.folder / file} has (rows, D) = {found}, {SUMMARY} says {shape}: {_AGAIN}")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def images(self) -> Images:
        """The images themselves, by row; UserError where they are gone."""
        return reopen(self.summary["images"], self.rows)

    def embed(self, data: bytes) -> np.ndarray:
        """The bytes of an image file -> its embedding, float32 [1, D]. Raises ValueError where they are no image."""
        view = eval_view(decode(data), config=self.embedder.views)
        return self.embedder.embed(torch.from_numpy(view)[None]).float().cpu().numpy()

    def search(self, queries: np.ndarray, k: int) -> list[list[Neighbour]]:
        """The k nearest images of each query [Q, D], by (distance, row).

        Raises:
            UserError: k is not 1 to N, or the queries are of another dimension.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"k is {k}, this index has 1 to {len(self):,} images to give")
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise UserError(f"queries of shape {queries.shape} asked of an index of dimension {self._index.d}")
        _, found = self._index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return [self._ordered(query, rows) for query, rows in zip(queries.astype(np.float64), found, strict=True)]

    def _ordered(self, query: np.ndarray, found: np.ndarray) -> list[Neighbour]:
        # From differences in float64: 1 - cosine in float32 can't tell a duplicate from a distance of 5e-4.
        vectors = self.embeddings[found].astype(np.float64)
        distances, cosines = np.linalg.norm(vectors - query, axis=1), vectors @ query
        order = np.lexsort((found, distances))
        return [
            Neighbour(
                *(rank, int(found[i]), self.rows[found[i]]["name"], self.rows[found[i]].get("label")),
                *(round(float(cosines[i]), 6), round(float(distances[i]), 6)),
            )
            for rank, i in enumerate(order, 1)
        ]


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        found = summary["format"]
        sizes = {folder / name: int(size) for name, size in summary["files"].items() if Path(name).name == name}
    except FileNotFoundError:
        raise UserError(f"{folder} holds no index ({SUMMARY} is missing): python -m dist_plm.embed makes one") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {_AGAIN}") from error
    if found != FORMAT:
        raise UserError(f"{path} is of format {found}, this version reads {FORMAT}: {_AGAIN}")
    for file, size in sizes.items():
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{file} is not as it was written ({size:,} bytes): copy it again, or {_AGAIN}")
    return summary
