"""Paths are bytes, and need not be text: they are embedded, kept and found like all others."""

import json
import os
import shutil
from pathlib import Path

import pytest

from dist_plm import embed as embedding
from dist_plm import evaluate as evaluation
from dist_plm import export as exporting
from dist_plm import search as searching
from dist_plm import train as training
from dist_plm.data.store import Store
from dist_plm.report import __main__ as reporting
from dist_plm.search_index.search_index import SearchIndex
from dist_plm.supervision import __main__ as supervision

NAMES = [os.fsdecode(name) for name in ("latté/café.jpg".encode(), b"lat\xe9/caf\xe9.jpg")]
SHOWN = ["latté/café.jpg", r"lat\udce9/caf\udce9.jpg"]


@pytest.fixture
def photos(tmp_path: Path, demo: Path) -> Path:
    """Two images, and a file that is none."""
    with Store(demo, "test") as store:
        for id, name in enumerate(NAMES):
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True)
            path.write_bytes(store.read(id))
    (tmp_path / "photos" / os.fsdecode(b"\xe9.png")).write_bytes(b"")
    return tmp_path / "photos"


def test_a_folder(photos, finished, tmp_path, here):
    out, sheet = tmp_path / "index", tmp_path / "sheet.png"
    outcome = here(embedding.main, "--checkpoint", finished, "--images", photos, "--out", out)
    assert outcome.status == 0 and "2 images" in outcome.out and "1 unreadable" in outcome.out, outcome
    assert json.loads((out / "unreadable.jsonl").read_text())["name"] == "\udce9.png"
    assert "latté/café.jpg" in (out / "images.jsonl").read_text(encoding="utf-8")
    search_index = SearchIndex(out)
    assert [row["name"] for row in search_index.rows] == NAMES
    for row, name in enumerate(NAMES):
        assert search_index.images.read(row) == (photos / name).read_bytes()
        outcome = here(searching.main, out, "--image", photos / name, "--k", 2, "--sheet", sheet)
        assert outcome.status == 0 and all(name in outcome.out for name in SHOWN), outcome
        assert sheet.stat().st_size > 1_000


def test_a_terminal_that_knows_ascii_alone(photos, finished, tmp_path, here, monkeypatch):
    out = tmp_path / "index"
    assert here(embedding.main, "--checkpoint", finished, "--images", photos, "--out", out).status == 0
    with (tmp_path / "terminal").open("w", encoding="ascii") as terminal, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", terminal)
        assert here(searching.main, out, "--image", photos / NAMES[0], "--k", 2).status == 0
    assert r"latt\xe9/caf\xe9.jpg" in (tmp_path / "terminal").read_text()


def test_shards(demo, finished, tmp_path, here, monkeypatch):
    monkeypatch.setattr(Store, "about", lambda self, id: {"source": f"caf\udce9/{id}.jpg"})
    out = tmp_path / "index"
    outcome = here(embedding.main, "--checkpoint", finished, "--shards", demo, "--out", out)
    assert outcome.status == 0, outcome.err
    assert [row["name"] for row in SearchIndex(out).rows] == [f"caf\udce9/{id}.jpg" for id in range(100)]


def test_what_is_written_beside_odd_names(photos, finished, tmp_path, here):
    odd = tmp_path / "photos" / os.fsdecode(b"r\xe9")
    odd.mkdir()
    outcome = here(reporting.main, finished, "--out", odd / "report.html")
    assert outcome.status == 0 and r"r\udce9/report.html" in outcome.out, outcome
    run = odd / "run"
    shutil.copytree(finished, run)
    outcome = here(reporting.main, run)
    assert outcome.status == 0 and "no pictures" in outcome.err and "rename it" in outcome.err, outcome
    outcome = here(searching.main, finished, "--image", odd / "none.jpg")
    assert outcome.status == 2 and r"r\udce9/none.jpg" in outcome.err, outcome


def test_where_weights_cannot_lie(photos, finished, demo, tmp_path, here):
    odd = tmp_path / os.fsdecode(b"r\xe9")
    for command, arguments in (
        (embedding.main, ("--checkpoint", finished, "--images", photos, "--out", odd)),
        (embedding.main, ("--checkpoint", odd, "--images", photos, "--out", tmp_path / "index")),
        (exporting.main, ("--checkpoint", finished, "--out", odd)),
        (searching.main, (odd, "--image", photos / NAMES[0])),
        (evaluation.main, ("--checkpoint", odd, "--shards", demo)),
        (supervision.main, ("--checkpoint", odd, "--shards", demo)),
        (training.main, ("--run_dir", odd, "--data.shards", demo)),
        (training.main, ("--run_dir", tmp_path / "run", "--data.shards", demo, "--model.weights", odd)),
    ):
        outcome = here(command, *arguments)
        assert outcome.status == 2 and r"r\udce9" in outcome.err and "rename it" in outcome.err, outcome
        assert not odd.exists()
