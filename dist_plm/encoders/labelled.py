"""Recall of trained networks on a few images whose labels come from a CSV, and the difference to the start of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.encoders.embedder import Embedder, embed_ids
from dist_plm.encoders.frozen import FrozenNetwork
from dist_plm.encoders.networks import TrainedExport, TrainedRun
from dist_plm.errors import UserError
from dist_plm.evaluation.intervals import bootstrap
from dist_plm.evaluation.retrieval import retrieval_counts
from dist_plm.evaluation.verdict import paired, recall_verdict
from dist_plm.files.csv_table import read_table
from dist_plm.training.held_out import held_out_store
from dist_plm.training.start_record import StartRecord

FEWEST = 20  # queries below which an interval of recall says nothing


@dataclass(frozen=True)
class Labelled:
    """Labelled images of a split: ids int64 [n], ascending, and labels int64 [n]."""

    store: Store
    ids: np.ndarray
    labels: np.ndarray


def read_labels(path: Path, store: Store) -> Labelled:
    """The rows `path,label` of a CSV, with a header; rows without a label are skipped.

    Args:
        path: Paths are those that the data set was built from. One that is none of them is the image whose path ends
            in it, or which it ends in, at a slash, if that is a single image.

    Raises:
        UserError: The file can't be read, names an image that the split does not have, or labels too few.
    """
    rows = _rows(path)
    if len(rows) < FEWEST:
        raise UserError(f"--labels {path} has {len(rows)} rows with path and label: label at least {FEWEST} images")
    sources = [str(store.about(id).get("source", "")) for id in range(len(store))]
    find = _finder(sources)
    numbers = {label: number for number, label in enumerate(sorted({label for _, label in rows}))}
    label_of: dict[int, int] = {}
    for name, label in rows:
        fitting = find(name)
        if len(fitting) != 1:
            many = f"fits {len(fitting)} images" if fitting else "is no image"
            raise UserError(
                f"--labels {path}: {name} {many} of split {store.split}: write paths as the data set was built from, "
                f"such as {sources[0]}, or name another --split"
            )
        id = fitting[0]
        if label_of.setdefault(id, numbers[label]) != numbers[label]:
            raise UserError(f"--labels {path} gives {name} two labels: keep one of its rows")
    ids = np.array(sorted(label_of), dtype=np.int64)
    return Labelled(store, ids, np.array([label_of[id] for id in ids.tolist()], dtype=np.int64))


def _finder(sources: list[str]) -> Callable[[str], list[int]]:
    """A function from a path to the ids of the images that it fits: those of this path, else those of one end."""
    exact: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for id, source in enumerate(sources):
        exact.setdefault(source, []).append(id)
        by_name.setdefault(source.rpartition("/")[2], []).append(id)

    def find(path: str) -> list[int]:
        if path in exact:
            return exact[path]
        alike = by_name.get(path.rpartition("/")[2], []) if path else []
        return [id for id in alike if _ends(sources[id], path) or _ends(path, sources[id])]

    return find


def _ends(path: str, end: str) -> bool:
    return bool(end) and path.endswith(f"/{end.lstrip('/')}")


def _rows(path: Path) -> list[tuple[str, str]]:
    """Path and label of the rows that have a label."""
    try:
        # held_out.csv may list names that are no text.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            names, table = read_table(file)
    except OSError as error:
        raise UserError(
            f"--labels {path} can't be read ({error.strerror}): name a CSV with the columns path and label"
        ) from error
    except ValueError as error:
        raise UserError(f"--labels {path}, {error}") from error
    if not {"path", "label"} <= set(names):
        raise UserError(f"--labels {path} has the columns {', '.join(names)}: its first line must be path,label")
    rows = [(row.get("path", ""), row.get("label", "")) for row in table]
    if nameless := sum(not name for name, label in rows if label):
        raise UserError(f"--labels {path} has {nameless} labels without a path: write the path of each")
    return [(name, label) for name, label in rows if label]


def evaluate_labelled(embedder: Embedder, labelled: Labelled, start: Path | None, *, config: Config) -> dict[str, Any]:
    """Recall@1 among the labelled images, with a 95 % bootstrap interval over queries.

    Args:
        start: RUN/start of the network's run. The images that it embedded give the difference to the start.

    Raises:
        UserError: No label has two images.
    """
    z = embed_ids(embedder, labelled.store, labelled.ids, config.evaluation.batch_size)
    hits = _hits(z, labelled.labels)
    if not (hits >= 0).any():
        raise UserError("no label of --labels has two images, so that nothing can be found: label more of each kind")
    interval = bootstrap(hits[hits >= 0])
    result: dict[str, Any] = {
        "images": len(labelled.ids),
        "queries": int((hits >= 0).sum()),
        "recall": {"1": interval.value},
        "interval": {"low": interval.low, "high": interval.high},
    }
    return result | (_difference(z, labelled, start, embedder) if start else {})


def start_of(trained: TrainedRun | TrainedExport | FrozenNetwork, store: Store) -> Path | None:
    """RUN/start of a network, if its images are those of `store`; None for an export and for other images."""
    if not isinstance(trained, TrainedRun) or trained.latest.summary["data"] != store.fingerprint:
        return None
    data = replace(trained.config.data, shards=store.place)
    return trained.path / "start" if held_out_store(data).split == store.split else None


def _difference(z: torch.Tensor, labelled: Labelled, start: Path, embedder: Embedder) -> dict[str, Any]:
    """The paired difference to the start, on the labelled images that the start embedded; empty for too few."""
    record = StartRecord(start)
    ids, views = record.ids(len(labelled.store)), record.views()
    if ids is None or views is None or len(ids) != len(views.evaluation):
        return {}
    common, labelled_rows, kept = np.intersect1d(labelled.ids, ids, return_indices=True)
    labels = labelled.labels[labelled_rows]
    now, before = _hits(z[labelled_rows], labels), _hits(views.evaluation[kept], labels)
    if (now >= 0).sum() < FEWEST:
        return {}
    over = paired(now, before)
    verdict = recall_verdict(embedder.source["model"], embedder.source["step"], now, before)
    difference = {"value": over.value, "low": over.low, "high": over.high, "images": len(common)}
    return {"over_start": difference, "verdict": verdict.word, "text": verdict.text}


def _hits(z: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    rows, known = torch.arange(len(z)), torch.from_numpy(labels)
    return retrieval_counts(z, known, z, known, [1], own_rows=rows, map_at_r=False).first
