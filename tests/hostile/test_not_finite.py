"""A network that gives NaN: one sentence, status 1, nothing written, on one rank and on two."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dist_plm
from dist_plm import embed as embedding
from dist_plm import search as searching
from dist_plm.errors import RunFailure, UserError
from dist_plm.search_index.search_index import SearchIndex
from tests.commands import on_ranks
from tests.end_to_end.conftest import contents
from tests.end_to_end.test_serve import search_index  # noqa: F401
from tests.untrained import export_to, untrained


@pytest.fixture
def diverged(tmp_path) -> Path:
    """An export whose network gives NaN."""
    embedder = untrained()
    embedder.network.head.weight.fill_(math.nan)
    return export_to(tmp_path / "diverged", embedder)


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photos" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(path)
    return path


def test_on_one_rank(tmp_path, diverged, photo, here, search_index):  # noqa: F811
    before = contents(tmp_path)
    outcome = here(embedding.main, "--checkpoint", diverged, "--images", photo.parents[1], "--out", tmp_path / "index")
    assert outcome.status == 1 and "is not finite: the weights are damaged or training diverged" in outcome.err, outcome
    assert outcome.err.count("\n") <= 2 and "Traceback" not in outcome.err and contents(tmp_path) == before
    with pytest.raises(RunFailure, match="1 embeddings are not finite"):
        dist_plm.embed_images(dist_plm.load_encoder(diverged), [photo])
    opened = SearchIndex(search_index.folder)
    opened.embedder.network.head.weight.fill_(math.nan)
    with pytest.raises(RunFailure, match="is not finite"):
        opened.embed(photo.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_plm.search_index.search_index.SearchIndex", lambda *_, **__: opened)
        outcome = here(searching.main, search_index.folder, "--image", photo)
    assert outcome.status == 1 and "not finite" in outcome.err and outcome.out == "", outcome


def test_on_two_ranks_each_says_so(tmp_path, diverged, demo):
    before = contents(tmp_path)
    for module, arguments in (
        ("dist_plm.evaluate", ("--shards", demo)),
        ("dist_plm.embed", ("--shards", demo, "--out", tmp_path / "index")),
    ):
        ended = [rank.wait() for rank in on_ranks(2, module, "--checkpoint", diverged, *arguments)]
        assert [each.status for each in ended] == [1, 1], ended
        assert all("not finite" in each.err and "Traceback" not in each.err for each in ended), ended
        assert contents(tmp_path) == before


LABELS = {
    "floats": [number / 10 for number in range(10)] * 2,
    "strings": [f"class {number}" for number in range(10)] * 2,
    "tuples": [(number, "x") for number in range(10)] * 2,
    "numpy": np.repeat(np.arange(10) / 10, 2).reshape(10, 2).T.ravel(),
    "bytes": [bytes([number]) for number in range(10)] * 2,
    "mixed": [0, 0.5, "a", b"a", (1,), True, 7, 8, 9, 10] * 2,
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_hashable_kind(name):
    """Ten pairs on a circle whose partners lie opposite, so that few neighbours are of the class."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    expected = dist_plm.evaluate_embeddings(points, list(range(10)) * 2, ks=(1, 2))
    found = dist_plm.evaluate_embeddings(points, LABELS[name], ks=(1, 2))
    assert found == expected and found["recall"][1] == 0.0 and found["queries"] == 20


def test_what_is_no_label(tmp_path):
    points = np.eye(6)
    found = dist_plm.evaluate_embeddings(points, ["a", "a", None, float("nan"), -1, "b"], ks=(1,))
    assert found["queries"] == 2 and found["dropped"] == 4
    for labels, match in (([[1]] * 6, "label 0 is"), ([{}] * 6, "label 0 is"), (["a"] * 5, "one label per row")):
        with pytest.raises(UserError, match=match):
            dist_plm.evaluate_embeddings(points, labels)
    for value in (np.nan, np.inf):
        points[2, 1] = value
        with pytest.raises(UserError, match="1 of 6 embeddings are not finite"):
            dist_plm.evaluate_embeddings(points, ["a"] * 6)
