"""Recall of trained networks on a few images whose labels come from a CSV, and the difference to the start of a run."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.encoders.embedder import Embedder, embed_ids
from dist_plm.errors import UserError
from dist_plm.evaluation.intervals import bootstrap
from dist_plm.evaluation.retrieval import retrieval_counts
from dist_plm.evaluation.verdict import paired, recall_verdict
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
        path: Paths are those that the data set was built from, or the end of one that fits no other image.

    Raises:
        UserError: The file can't be read, names an image that the split does not have, or labels too few.
    """
    rows = _rows(path)
    if len(rows) < FEWEST:
        raise UserError(f"--labels {path} has {len(rows)} rows with path and label: label at least {FEWEST} images")
    names: dict[str, int] = {}
    for id in range(len(store)):
        source = str(store.about(id).get("source", ""))
        for name in {source, Path(source).name}:
            names[name] = -1 if name in names else id  # -1: the end of several paths
    numbers = {label: number for number, label in enumerate(sorted({label for _, label in rows}))}
    label_of: dict[int, int] = {}
    for name, label in rows:
        id = names.get(name, names.get(Path(name).name, -1))
        if id < 0:
            raise UserError(f"--labels {path}: {name} is no image of split {store.split}, or of several names")
        if label_of.setdefault(id, numbers[label]) != numbers[label]:
            raise UserError(f"--labels {path} gives {name} two labels: keep one of its rows")
    ids = np.array(sorted(label_of), dtype=np.int64)
    return Labelled(store, ids, np.array([label_of[id] for id in ids.tolist()], dtype=np.int64))


def _rows(path: Path) -> list[tuple[str, str]]:
    """Path and label of the rows that have a label."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, skipinitialspace=True)
            names = [(name or "").strip() for name in table.fieldnames or []]
            table.fieldnames = names
            rows = [((row.get("path") or "").strip(), (row.get("label") or "").strip()) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--labels {path} can't be read ({reason}): name a CSV with the columns path and label"
        ) from error
    if not {"path", "label"} <= set(names):
        raise UserError(f"--labels {path} has the columns {', '.join(names)}: its first line must be path,label")
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
