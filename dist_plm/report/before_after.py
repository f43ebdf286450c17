"""The neighbours of fixed queries at the start of a run and now, and the share of all neighbours that changed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.data.store import Store
from dist_plm.encoders.embedder import Embedder, embed_ids
from dist_plm.evaluation.label_free import neighbours, overlap
from dist_plm.report.history import History
from dist_plm.report.test_split import require_finite
from dist_plm.training.start_record import StartRecord

QUERIES, SHOWN = 6, 5


@dataclass(frozen=True)
class Changed:
    """Neighbours among the held-out images of a run.

    Attributes:
        store: The split that the images are from.
        images: How many there are.
        share: Of the nearest images by the network now that were not nearest at the start.
        rows: (query, neighbours at the start, neighbours now), ids in the split, nearest first.
    """

    store: Store
    images: int
    share: float
    rows: list[tuple[int, list[int], list[int]]]


def changed_neighbours(student: Embedder, history: History, *, config: Config) -> Changed | None:
    """Compare the student with the start; None where the run has not kept its start.

    The queries are spread evenly over the held-out images, so that they are the same in every report of the run.

    Raises:
        UserError: the data set is gone, or embeddings are not finite.
    """
    record = StartRecord(Path(history.path) / "start")
    split = next((event.get("split") for event in history.of("label_free")), None)
    start = record.views()
    if split is None or start is None:
        return None
    store = open_split(config.data, split)
    ids = record.ids(len(store))
    if ids is None or len(ids) != len(start.evaluation):
        return None
    z = embed_ids(student, store, ids, config.evaluation.batch_size)
    require_finite(z.numpy(), "student")
    before, now = start.neighbours, neighbours(z)
    queries = np.unique(np.linspace(0, len(ids) - 1, QUERIES + 2).astype(int)[1:-1])
    rows = [(int(ids[q]), *(ids[near[q][:SHOWN].numpy()].tolist() for near in (before, now))) for q in queries]
    return Changed(store, len(ids), 1 - float(overlap(now, before).mean()), rows)
