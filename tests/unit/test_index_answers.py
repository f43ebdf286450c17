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


def test_ranks_begin_at_1_without_the_image_itself(index):
    client = create_app(index, most_bytes=10**6, host="127.0.0.1").test_client()
    found = client.get("/search?row=5&k=4").get_json()["neighbours"]
    assert [each["rank"] for each in found] == [1, 2, 3, 4] and 5 not in [each["row"] for each in found]


def test_a_store_that_is_away_holds_up_no_upload(index, monkeypatch):
    monkeypatch.setattr(web, "BUSY_SECONDS", 0.1)
    reading, away = threading.Event(), threading.Event()
    data = index.images.read(0)

    class Away:
        def read(self, row):
            reading.set()
            assert away.wait(30)
            raise StoreFailure("http://secret.example could not be read for 120 s")

    index.__dict__["images"] = Away()
    app, answers = create_app(index, most_bytes=10**6, host="127.0.0.1"), []
    thumbnail = threading.Thread(target=lambda: answers.append(app.test_client().get("/images/3")))
    thumbnail.start()
    assert reading.wait(30)
    upload = app.test_client().post("/search?k=3", data=data)
    away.set()
    thumbnail.join()
    assert upload.status_code == 200 and answers[0].status_code == 503
    assert answers[0].get_json() == {"error": "the store of the images does not respond: try again later"}


def test_a_list_is_safe_for_a_terminal(index, capsys):
    index.rows[0] = {"name": "a\x1b]0;x\x07\tb\nc", "label": "d\n2\te"}
    command._list(index)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(index) and lines[0] == r"0	a\x1b]0;x\x07\tb\nc	d\n2\te"
