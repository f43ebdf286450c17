"""Answers of a search: exact, ranked from 1, printed safely, and not held up by a store that is away."""

import threading

import numpy as np
import pytest

from dist_plm.data.remote.spans import StoreFailure
from dist_plm.search_index import __main__ as command
from dist_plm.search_index import web
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.search_index.web import create_app
from tests.unit.test_index_changes import embed, photos  # noqa: F401


@pytest.fixture
def index(photos, tmp_path) -> SearchIndex:  # noqa: F811
    return embed(photos, tmp_path / "index")


def of(index: SearchIndex, rows: np.ndarray) -> SearchIndex:
    """The index with other embeddings."""
    index.embeddings = rows.astype(np.float32)
    index.rows = [{"name": str(row)} for row in range(len(rows))]
    index._index = index._exact_index()
    return index


@pytest.mark.parametrize("distance", [0, 1e-5, 1e-4])
def test_the_nearest_come_first_among_near_duplicates(index, distance):
    draw = np.random.default_rng(1)
    points = draw.normal(size=(300, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    twins = points + distance * draw.normal(size=points.shape) / 8**0.5
    twins /= np.linalg.norm(twins, axis=1, keepdims=True)
    index = of(index, np.concatenate([points, twins]))
    assert [found[0].row for found in index.search(index.embeddings[:300], 1)] == list(range(300))


def test_of_many_duplicates_the_first_rows_come_first(index):
    rows = np.eye(8)[np.arange(400) % 2]
    found = of(index, rows).search(rows[1:2], 30)[0]
    assert [each.row for each in found] == list(range(1, 61, 2)) and {each.distance for each in found} == {0}
