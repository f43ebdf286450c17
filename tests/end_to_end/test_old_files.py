"""Files that version 0.1 wrote (commit 579f7dc) still load: a stopped run, an export, an index and shards.

tests/data/version_0.1.tar.xz was written by that version's commands; 97 % of the weights were set to zero as the
checkpoint was saved, so that it compresses to 140 KB. Its own numbers are in evaluated.jsonl and neighbours.txt.
"""

import json
import re
import tarfile
from pathlib import Path

import pytest

from dist_plm import evaluate as evaluation
from dist_plm import search as searching
from dist_plm import train as training
from tests.commands import ROOT
from tests.end_to_end.conftest import events


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(ROOT / "tests/data/version_0.1.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_old_run_evaluates_and_resumes(old, here):
    outcome = here(evaluation.main, "--checkpoint", "run")
    assert outcome.status == 0, outcome.err
    before = [json.loads(line) for line in (old / "evaluated.jsonl").read_text().splitlines()]
    for now, then in zip(map(json.loads, outcome.out.splitlines()), before, strict=True):
        assert now["model"] == then["model"] and now["recall"] == then["recall"]
        assert now["map_at_r"] == pytest.approx(then["map_at_r"], abs=1e-6)
    outcome = here(training.main, "--config", "tiny.yaml")
    assert outcome.status == 0, outcome.err
    steps = [event["step"] for event in events(old / "run", "step")]
    assert steps == [1, 2, 3, 4, 5, 6] and events(old / "run", "end")


def test_an_old_export_and_index_search(old, here):
    outcome = here(evaluation.main, "--checkpoint", "export", "--shards", "shards")
    assert outcome.status == 0, outcome.err
    then = json.loads((old / "evaluated.jsonl").read_text().splitlines()[0])
    assert json.loads(outcome.out.splitlines()[0])["recall"] == then["recall"]
    outcome = here(searching.main, "index", "--image", "query.png", "--k", 5)
    assert outcome.status == 0, outcome.err
    rows = re.compile(r"([\d.]+) │ +([\d.]+) │.*?(glyph/\d+)")
    assert rows.findall(outcome.out) == rows.findall((old / "neighbours.txt").read_text()) != []
