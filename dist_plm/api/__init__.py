"""The Python API for notebooks: load a network, embed images, search an index, compute metrics.

Errors that the user can fix are `dist_plm.errors.UserError`.
"""

from collections.abc import Hashable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.data.picture import Picture, open_picture
from dist_plm.data.views import eval_view
from dist_plm.encoders.embedder import Embedder
from dist_plm.encoders.frozen import module_embedder
from dist_plm.encoders.networks import load_network, locate
from dist_plm.errors import RunFailure, UserError
from dist_plm.evaluation import nmi, retrieval_counts
from dist_plm.index.embedding_pass import DIVERGED
from dist_plm.model.own_backbone import allow
from dist_plm.search_index.search_index import Neighbour, SearchIndex

__all__ = ["embed_images", "evaluate_embeddings", "load_encoder", "search_images"]


def load_encoder(
    path: str | Path | nn.Module, model: str = "", device: str | torch.device = "cpu", *, backbone: str = "",
    size: int = 224, resize: int = 256, pooling: str = "avg",
) -> Embedder:  # fmt: skip
    """The trained network at a path, or the features of a network of your own.

    Args:
        path: A run directory, of which the newest intact checkpoint is read, an export, or an nn.Module as in
            `OwnBackbone`, whose pooled features are the embedding.
        model: `student` or `teacher` of a run; the student by default.
        device: Where it will embed.
        backbone: `package.module:function` of the network of a run or an export, where that is your own.
        size: Side of the centre crop for an nn.Module, pixels, at most `resize`.
        resize: Shorter side before that crop, pixels.
        pooling: Of an nn.Module, as `model.pooling`: avg, max, avg_max, gem, cls or cls_avg.

    Raises:
        UserError: There is none, or it is damaged; an nn.Module returns no features that can be pooled so; there is no
            such device or crop.
    """
    device = _usable(device)
    if isinstance(path, nn.Module):
        if pooling not in (kinds := get_args(get_type_hints(ModelConfig)["pooling"])):
            raise UserError(f"pooling is {pooling!r}: one of {', '.join(kinds)}")
        if _whole(size, "size") > _whole(resize, "resize"):
            raise UserError(f"size is {size} and resize {resize}: a crop of {size} pixels needs a resize of as many")
        return module_embedder(path, pooling=pooling, size=size, resize=resize, device=device)
    allow(backbone)
    return load_network(locate(Path(path)), model, device)


def embed_images(encoder: Embedder, images: Iterable[Picture], *, batch_size: int = 64) -> np.ndarray:
    """Embeddings of images, float32 [n, D] of unit length, in their order.

    Args:
        encoder: From `load_encoder`.
        images: Several images of any size, each a path, the bytes of an image file, a file opened in binary mode, a PIL
            image, or a uint8 or uint16 array [height, width] or [height, width, 1-4 channels].
        batch_size: Images in memory at a time.

    Raises:
        UserError: One of them is not an image (says which), or an argument is of another kind.
    """
    if not isinstance(encoder, Embedder):
        raise UserError(f"encoder is {_kind(encoder)}: pass the result of load_encoder")
    size = _whole(batch_size, "batch_size")
    rows, views = [np.empty((0, encoder.dim), np.float32)], []
    for number, image in enumerate(_several(images)):
        views.append(eval_view(_opened(image, number), config=encoder.views))
        if len(views) == size:
            rows.append(_embedded(encoder, views))
            views = []
    if views:
        rows.append(_embedded(encoder, views))
    return np.concatenate(rows)


def search_images(index: str | Path | SearchIndex, images: Iterable[Picture], k: int = 10) -> list[list[Neighbour]]:
    """The k images of an index that are nearest to each query, nearest first.

    Args:
        index: Folder written by `python -m dist_plm.embed`, or a SearchIndex that was opened before.
        images: As for `embed_images`.
        k: Neighbours of a query.

    Raises:
        UserError: No index there; not an image; k beyond the index.
    """
    if not isinstance(index, str | Path | SearchIndex):
        raise UserError(f"index is {_kind(index)}: pass the folder of an index, or a SearchIndex")
    search_index = index if isinstance(index, SearchIndex) else SearchIndex(index)
    return search_index.search(embed_images(search_index.embedder, images), _whole(k, "k"))


def evaluate_embeddings(
    embeddings: np.ndarray, labels: Sequence[Hashable] | np.ndarray, ks: Sequence[int] = (1, 2, 4, 8)
) -> dict[str, Any]:
    """The field's metrics, every row being a query against all others.

    Args:
        embeddings: [N, D] of any floating type.
        labels: [N], of any hashable kind (numbers, strings, tuples, ...); equal labels are one class. None, NaN and
            the integer -1 mean unlabelled.
        ks: K of recall@K.

    Returns:
        {"recall": {K: share}, "map_at_r": share, "nmi": share, "queries": n, "dropped": n}, shares in [0, 1].

    Raises:
        UserError: An embedding is not finite, a label is not hashable, or embeddings and labels differ in number.
        ValueError: No label occurs twice.
    """
    points = torch.as_tensor(np.asarray(embeddings))
    if points.ndim != 2 or len(points) != len(labels):
        raise UserError(f"embeddings of shape {tuple(points.shape)} and {len(labels):,} labels: pass one label per row")
    if bad := int((~points.isfinite()).any(1).sum()):
        raise UserError(f"{bad:,} of {len(points):,} embeddings are not finite: {DIVERGED}")
    classes = torch.as_tensor(_numbered(labels))
    counts = retrieval_counts(points, classes, points, classes, ks, own_rows=torch.arange(len(points)))
    return {**counts.metrics(), "nmi": nmi(points.numpy(), classes.numpy(), seed=0)}


def _numbered(labels: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Classes int64 [N] by the equality of labels, in order of first occurrence; -1 where there is none."""
    numbers: dict[Hashable, int] = {}
    result = np.empty(len(labels), np.int64)
    for row, label in enumerate(labels.tolist() if isinstance(labels, np.ndarray | torch.Tensor) else labels):
        label = label.item() if isinstance(label, np.generic | torch.Tensor) else label
        try:
            # NaN is the only value that differs from itself.
            none = label is None or label != label or (isinstance(label, int) and label == -1)
            result[row] = -1 if none else numbers.setdefault(label, len(numbers))
        except (TypeError, ValueError) as error:
            raise UserError(f"label {row} is {label!r:.80}: labels must be hashable, as numbers are") from error
    return result


def _several(images: Iterable[Picture]) -> Iterable[Picture]:
    """Raise UserError for a single image, since iterating over it would give its letters, lines or rows."""
    single = isinstance(images, str | PathLike | bytes | bytearray | Image.Image) or hasattr(images, "read")
    if single or (isinstance(images, np.ndarray) and images.dtype != object and images.ndim < 4):
        raise UserError(f"images is a single {_kind(images).split(' ', 1)[1]}: pass a list of images, such as [image]")
    if not isinstance(images, Iterable):
        raise UserError(f"images is {_kind(images)}: pass a list of images")
    return images


def _opened(image: Picture, number: int) -> Image.Image:
    try:
        return open_picture(image)
    except (ValueError, TypeError, OSError) as error:
        name = str(image) if isinstance(image, str | PathLike) else f"image {number}"
        raise UserError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _usable(device: str | torch.device) -> torch.device:
    """The device. Raises UserError if this machine, or this build of torch, has none of this name."""
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device is {str(device)!r}, which can't be used here ({reason}): pass 'cpu'") from error


def _whole(value: int, name: str) -> int:
    """Check that `value` is a positive integer, and return it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f"{name} is {value!r}: it must be a positive integer")
    return int(value)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


def _embedded(encoder: Embedder, views: list[np.ndarray]) -> np.ndarray:
    points = encoder.embed(torch.from_numpy(np.stack(views))).float().cpu().numpy()
    if not np.isfinite(points).all():
        raise RunFailure(f"{int((~np.isfinite(points)).any(1).sum()):,} embeddings are not finite: {DIVERGED}")
    return points
