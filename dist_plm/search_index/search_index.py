"""An index directory: embeddings, names and an exact FAISS index, with the network that a query needs.

DIR/
    embeddings.npy      float32 [N, D], rows of unit length
    images.jsonl        one line per row: name, optional label; id in the shards, or size, time and SHA-256
    unreadable.jsonl    name and reason of each unreadable file
    ignored.jsonl       name and rule of each ignored file
    index.faiss         IndexFlatIP over the rows, for other programs; this package rebuilds it from embeddings.npy
    encoder/            the network as an export (encoders/exported.py)
    index.json          N, D, signed location of the images (ownership.py), generation, bytes of each file

After a change (maintenance.py) the first five names contain their generation: embeddings.2.npy. An index is untrusted:
faiss.read_index is not safe for manipulated files (it opens paths named in a file), and images outside of the index
are only shown from a folder that this account named.
"""

import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_plm.data.decode import decode
from dist_plm.data.views import eval_view
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.exported import read_export
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.reading import map_array, read_document
from dist_plm.index.directory import EMBEDDINGS, ENCODER, ROWS, SUMMARY, file_of
from dist_plm.index.embedding_pass import DIVERGED
from dist_plm.index.faiss_library import require_faiss
from dist_plm.index.flat import Exact
from dist_plm.index.proposals import open_search
from dist_plm.index.ranking import Lattice
from dist_plm.index.rows import HeldRows
from dist_plm.model.own_backbone import allow
from dist_plm.search_index.images import Images, reopen
from dist_plm.search_index.ownership import is_own
from dist_plm.search_index.records import read_records

FORMAT, CHANGED_FORMAT = 1, 2
"""Format of an index written by `embed`, and of a changed one, whose file names contain the generation."""

_AGAIN = "rebuild the index: python -m dist_plm.embed"
_BLOCK = 1 << 16  # rows validated at once
_UNIT = 1e-3  # tolerance of a row's norm; float32 rounding is 1e-6


@dataclass(frozen=True)
class Neighbour:
    """A search result.

    Args:
        rank: 1 is the nearest.
        row: Its row in the index.
        name: Path or source of the image.
        label: Its class, or None.
        cosine: Cosine similarity to the query.
        distance: Euclidean distance to the query, 0 to 2.
    """

    rank: int
    row: int
    name: str
    label: str | None
    cosine: float
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


class SearchIndex:
    """An opened index directory.

    Args:
        folder: Written by `python -m dist_plm.embed`.
        device: Device of the query network.
        images: Folder or data set of the images; by default the one that the index names, if this account made it.
        backbone: `package.module:function` of the index's network, if it is your own.

    Attributes:
        embedder: The network.
        embeddings: float32 [N, D], memory-mapped.
        rows: Record of each image: `name`, optional `label`.
        summary: index.json.
        generation: Number of the generation, from 1.

    Raises:
        UserError: No index there, a damaged one, or one that another backbone embedded.
    """

    def __init__(
        self, folder: str | Path, device: torch.device | None = None, images: str | Path = "", backbone: str = ""
    ) -> None:
        self.folder, self._images_at = Path(folder), images
        self.summary = _summary(self.folder)
        allow(backbone)
        self.embedder: Embedder = read_export(self.folder / ENCODER, device or torch.device("cpu"))
        if backbone and backbone != (actual := self.embedder.model.backbone):
            raise UserError(
                f"{self.folder} was embedded by {actual}, so a query is too: leave --backbone out, or embed the images "
                f"again: python -m dist_plm.embed --backbone {backbone}"
            )
        try:
            shape = (int(self.summary["count"]), int(self.summary["dim"]))
            self.generation = int(self.summary.get("generation", 1))
            self.embeddings = map_array(self.file(EMBEDDINGS))
            if self.embeddings.dtype != np.float32:
                raise ValueError(f"{EMBEDDINGS} holds {self.embeddings.dtype}, not float32")
            self.rows = list(read_records(self.file(ROWS)))
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            reason = str(error).splitlines()[0][:160]
            raise UserError(f"{self.folder} is a damaged index ({reason}): {_AGAIN}") from error
        shapes = {
            EMBEDDINGS: self.embeddings.shape,
            ROWS: (len(self.rows), shape[1]),
            ENCODER: (shape[0], self.embedder.dim),
        }
        for file, stored in shapes.items():
            if stored != shape:
                raise UserError(f"{self.folder / file} has (rows, D) = {stored}, {SUMMARY} says {shape}: {_AGAIN}")
        self._index = self._exact_index()

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, name: str) -> Path:
        """Path of the current generation of a file."""
        return self.folder / file_of(name, self.generation)

    @cached_property
    def images(self) -> Images:
        """The images themselves, by row.

        Raises:
            UserError: They are missing; or the index was made by another account and no folder was named.
        """
        place, within = self.summary.get("images"), None
        if self._images_at:
            place = {**place, "folder": str(self._images_at)} if isinstance(place, dict) else place
        elif not is_own(place, self.summary.get("signature")):
            if not _lies_within(place, self.folder):
                where = place.get("folder") if isinstance(place, dict) else place
                raise UserError(
                    f"{self.folder} was not made by this account, and its images lie in {where!a:.200}: to "
                    "show that folder, name it with --images"
                )
            within = self.folder
        return reopen(place, self.rows, within)

    def embed(self, data: bytes) -> np.ndarray:
        """The bytes of an image file -> its embedding, float32 [1, D]. Raises ValueError if they are not an image."""
        view = eval_view(decode(data), config=self.embedder.views)
        point = self.embedder.embed(torch.from_numpy(view)[None]).float().cpu().numpy()
        if not np.isfinite(point).all():
            raise RunFailure(f"the embedding of this image is not finite: {DIVERGED}")
        return point

    def search(self, queries: np.ndarray, k: int) -> list[list[Neighbour]]:
        """The k nearest images of each query [Q, D], by (distance, row).

        Raises:
            UserError: k is not 1 to N, or the queries are of another dimension, not finite or not of unit length.
        """
        queries = np.asarray(queries)
        if not 1 <= k <= len(self):
            raise UserError(f"k is {k}: it must be 1 to {len(self):,}, the images of this index")
        dim = self.embeddings.shape[1]
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise UserError(f"queries of shape {queries.shape} for an index of dimension {dim}")
        if fault := unit_fault(queries):
            raise UserError(f"the query has {fault}: embed it with the network of this index")
        asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
        nearest = self._lattice.ids(self._index.search(asked, None, k)).numpy()
        return [self._ordered(query, rows) for query, rows in zip(queries.astype(np.float64), nearest, strict=True)]

    def _exact_index(self) -> Exact:
        """Exact search over the rows, with validation."""
        require_faiss("search")
        count, dim = self.embeddings.shape
        for low in range(0, count, _BLOCK):
            block = self.embeddings[low : low + _BLOCK]
            # A network may return a row of zeros.
            if fault := unit_fault(block[block.any(1)]):
                raise UserError(f"{self.file(EMBEDDINGS)} has {fault}: {_AGAIN}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a read-only memory map, which is only read
            rows = HeldRows(torch.from_numpy(self.embeddings))
        self._lattice = Lattice.scaled(torch.zeros(dim, dtype=torch.float64), 1 + _UNIT, count)
        return Exact(rows, self._lattice, open_search("faiss", self._lattice, rows))

    def _ordered(self, query: np.ndarray, rows: np.ndarray) -> list[Neighbour]:
        # From differences in float64: 1 - cosine in float32 can't tell a duplicate from a distance of 5e-4.
        vectors = self.embeddings[rows].astype(np.float64)
        distances, cosines = np.linalg.norm(vectors - query, axis=1), vectors @ query
        order = np.lexsort((rows, distances))
        return [
            Neighbour(
                *(rank, int(rows[i]), self.rows[rows[i]]["name"], self.rows[rows[i]].get("label")),
                *(round(float(cosines[i]), 6), round(float(distances[i]), 6)),
            )
            for rank, i in enumerate(order, 1)
        ]


Catalogue = SearchIndex  # the former name, which notebooks may import


def unit_fault(rows: np.ndarray) -> str:
    """Error of embeddings [n, D] that must have unit length; empty for none."""
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not np.isfinite(lengths).all():
        return f"{int((~np.isfinite(lengths)).sum()):,} row(s) that are not finite"
    if (wrong := np.abs(lengths - 1) > _UNIT).any():
        return f"{int(wrong.sum()):,} row(s) that are not of unit length (the first of {lengths[wrong.argmax()]:.4g})"
    return ""


def _lies_within(place: Any, folder: Path) -> bool:
    inner = place.get("folder") if isinstance(place, dict) else None
    return isinstance(inner, str) and "://" not in inner and Path(inner).resolve().is_relative_to(folder.resolve())


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        summary = read_document(path)
        version = summary["format"]
        sizes = {folder / name: int(size) for name, size in summary["files"].items() if Path(name).name == name}
    except FileNotFoundError:
        raise UserError(f"{folder} is not an index ({SUMMARY} is missing): see python -m dist_plm.embed") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): {_AGAIN}") from error
    if version not in (FORMAT, CHANGED_FORMAT):
        raise UserError(
            f"{path} is of format {version!a:.40}, this version reads {FORMAT} and {CHANGED_FORMAT}: {_AGAIN}"
        )
    for file, size in sizes.items():
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{file} is damaged ({size:,} bytes): copy it again, or {_AGAIN}")
    return summary
