"""What a report is made of, against counts by hand."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from dist_plm.config import BatchConfig, Config
from dist_plm.data.opening import labels_as
from dist_plm.errors import UserError
from dist_plm.report import page
from dist_plm.report.charts import has_course, histogram, thinned
from dist_plm.report.coverage import read_coverage
from dist_plm.report.history import History, read_all
from dist_plm.report.landscape import hues, landscape
from dist_plm.report.pictures import Pictures
from dist_plm.report.retrieved import Retrieved
from dist_plm.report.tables import evaluations, label_free, tiles
from dist_plm.report.test_split import EmbeddedSplit, require_finite
from dist_plm.training.run_directory import dump


class Split:
    """Images with classes."""

    def __init__(self, labels: list[int], classes: str) -> None:
        self.labels, self.classes = np.array(labels), list(classes)
        self.store = self

    def __len__(self) -> int:
        return len(self.labels)


def searched() -> Retrieved:
    split = Split([0, 0, 0, 1, 1, 2, -1], "abc")
    neighbours = np.array([[1, 2], [3, 0], [3, 4], [4, 0], [3, 0], [0, 1], [0, 1]])
    return Retrieved(split, split, np.arange(7), neighbours)  # type: ignore[arg-type]


def test_worst_and_most_confused_classes():
    found = searched()
    assert found.worst_classes() == [(2, 0.0), (0, 1 / 3), (1, 1.0)]
    assert found.most_confused() == [(2, 0, 1, 1.0), (0, 1, 2, 2 / 3)]
    assert not found.right[6].any(), "an unlabelled query has no right neighbour"
    assert found.of_class(0, 2).tolist() == [2, 0]


def test_classes_of_two_splits_agree_by_name():
    queries, gallery = Split([0, 1, 2], "abx"), Split([0, 1], "ba")
    found = Retrieved(queries, gallery, np.arange(3), np.array([[1], [1], [0]]))  # type: ignore[arg-type]
    assert found.right[:, 0].tolist() == [True, False, False]


def test_two_classes_of_one_name_in_one_split_stay_two():
    split = Split([0, 0, 1, 1, 2, -1], "aab")
    assert labels_as(split, split).tolist() == [0, 0, 1, 1, 2, -1]  # type: ignore[arg-type]
    queries, gallery = Split([0, 1, 2], "abx"), Split([0, 1, 2, -1], "bay")
    assert labels_as(queries, gallery).tolist() == [1, 0, 5, -1]  # type: ignore[arg-type]


def run_directory(folder: Path, events: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(Config(batch=BatchConfig(groups=10, group_size=10))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "st')
    return folder


def test_where_the_time_went(tmp_path):
    step = {"event": "step", "images_per_second": 50.0}
    path = run_directory(
        tmp_path / "run",
        [
            {"event": "eval", "step": 0, "model": "student", "seconds": 3.0},
            step | {"step": 10, "wait_share": 0.5},
            {"event": "sweep", "step": 10, "seconds": 2.0},
            step | {"step": 15, "wait_share": 0.0},
        ],
    )
    spent = History.read(path).seconds()
    assert spent == {
        "computing steps": 20.0,
        "waiting for data": 10.0,
        "embedding passes": 2.0,
        "evaluation": 3.0,
    }


def test_incidents_without_a_step_stand_where_the_run_was(tmp_path):
    events = [{"event": "step", "step": 7}, {"event": "requeued", "restart": 2, "reason": "node failure"}]
    history = History.read(run_directory(tmp_path / "run", events))
    assert history.incidents() == [(7, "requeued", "restart 2: node failure")]


def test_numbers_that_are_not_finite_were_not_measured(tmp_path):
    recall = {"event": "eval", "model": "student"}
    events = [
        {"event": "step", "step": 1, "loss": 0.5, "lr": math.inf, "images_per_second": 9.0, "wait_share": 0.0},
        recall | {"step": 1, "recall": {"1": 0.25, "2": 0.5}},
        recall | {"step": 2, "recall": {"1": math.nan, "2": 0.75}, "nmi": -math.inf},
    ]
    history = History.read(run_directory(tmp_path / "run", events))
    assert [name for _, name, _ in history.numbers("step")] == ["loss", "images_per_second", "wait_share"]
    assert tiles(history)[0] == ("R@2 student", "75.0 %", "+25.0 points since the start")
    head, rows = evaluations(history)
    assert head[3:] == ["R@1", "R@2"] and rows[1][3:] == ["", "75.0"], "no column is empty"


def test_a_collapsed_network_is_one_point_of_the_map():
    split = Split([0] * 12, "a")
    embedded = EmbeddedSplit(split, np.ones((12, 4), np.float32) / 2)  # type: ignore[arg-type]
    found = landscape(Retrieved(embedded, embedded, np.arange(12), np.zeros((12, 1), int)), seed=0)
    assert found is not None and np.array_equal(found[1], np.full((12, 2), 0.5))


def test_embeddings_that_are_not_finite_are_refused():
    require_finite(np.zeros((2, 3)), "student")
    with pytest.raises(UserError, match="the student's embeddings are not finite"):
        require_finite(np.array([[0, np.inf]]), "student")


def test_names_tell_runs_apart(tmp_path):
    runs = [run_directory(tmp_path / name / "run", [{"event": "end", "step": 1}]) for name in "ab"]
    assert [history.name for history in read_all(runs)] == ["a/run", "b/run"]
    with pytest.raises(UserError, match="twice"):
        read_all([runs[0], runs[0]])


def test_coverage(tmp_path):
    np.save(tmp_path / "epoch_00000.npy", np.array([[[0, 1], [2, 0]]]))
    np.save(tmp_path / "epoch_00003.npy", np.array([[[0, 3], [3, 1]]]))
    found = read_coverage(tmp_path, 5)
    assert found is not None
    assert found.reads.tolist() == [3, 2, 1, 2, 0]
    assert found.epochs == [(0, 0.6, 0.6), (3, 0.6, 0.8)]
    assert found.histogram() == [(0, 1), (1, 1), (2, 2), (3, 1)]
    assert read_coverage(tmp_path, 3) is None, "plans of other images"


def test_thinned_keeps_the_ends():
    rows = [{"step": step} for step in range(2_501)]
    kept = thinned(rows)
    assert len(kept) <= 1_001 and kept[0] == rows[0] and kept[-1] == rows[-1]
    assert thinned(rows[:1_000]) == rows[:1_000]


def test_neighbouring_classes_have_neighbouring_hues():
    angles = np.linspace(-3, 3, 12)
    found = hues(np.arange(12), np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert list(found.values()) == sorted(found.values()) and len(set(found.values())) == 12


def test_coverage_has_a_bar_for_each_number_of_reads():
    drawn = histogram(
        [{"reads": 0, "images": 2}, {"reads": 1, "images": 74}, {"reads": 2, "images": 923}], "run", ["run"]
    )
    bars = [(row["times"], row["images"]) for row in drawn["data"]["values"]]
    assert bars == [("0", 2), ("1", 74), ("2", 923)] and "bin" not in drawn["encoding"]["x"]


def test_many_numbers_of_reads_are_drawn_in_ranges_that_lose_no_image():
    rows = [{"reads": reads, "images": reads + 1} for reads in range(95)]
    bars = histogram(rows, "run", ["run"])["data"]["values"]
    assert len(bars) == 32 and bars[0]["times"] == "0 to 2" and bars[0]["images"] == 1 + 2 + 3
    assert sum(bar["images"] for bar in bars) == sum(row["images"] for row in rows)


def test_two_points_are_no_course():
    rows = [
        {"run": "a", "step": step, "value": 1.0, "model": model} for step in (0, 9) for model in ("student", "teacher")
    ]
    assert not has_course(rows, "model")
    assert has_course([*rows, {"run": "a", "step": 5, "value": 1.0, "model": "teacher"}], "model")


VERDICT = {"event": "verdict", "step": 9, "model": "student"}


def label_free_event(step: int, model: str, when: str, agreement: float) -> dict:
    changes = {} if when == "start" else {"changes": {"agreement": 0.02}, "changes_error": {"agreement": 0.005}}
    return {"event": "label_free", "step": step, "model": model, "when": when, "split": "train", "images": 300,
            "values": {"agreement": agreement}, "values_error": {"agreement": 0.01}} | changes  # fmt: skip


def test_a_run_without_labels_shows_its_verdict_and_nothing_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda code: code)
    events = [label_free_event(0, "student", "start", 0.30), label_free_event(5, "student", "epoch 1", 0.31),
              label_free_event(9, "student", "end", 0.32),
              VERDICT | {"verdict": "better", "basis": "views", "text": "better so"},
              {"event": "step", "step": 9, "loss": 0.5, "images_per_second": 9.0, "wait_share": 0.0}]  # fmt: skip
    history = History.read(run_directory(tmp_path / "run", events))
    page._write([page.Section(history, "#123456", Pictures(), "")], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert tiles(history)[0] == ("student, without labels", "better", "better so")
    headings = re.findall(r'<h2 id="(\w+)"', text)
    assert headings == ["summary", "label_free", "time", "config"], "one step makes no curve"
    for nothing in ("never seen", "no test split", "None.", "Weakest"):
        assert nothing not in text
    drawn = json.loads(re.search(r'id="label_free-1">(.*?)</script>', text)[1])
    band = next(layer["data"]["values"] for layer in (drawn, *drawn["layer"]) if "data" in layer)
    ends = [(row["low"], row["high"]) for row in band if row["model"] == "student"]
    assert np.allclose(ends, [(0.28, 0.32), (0.29, 0.33), (0.3, 0.34)])
    head, rows = label_free(history)
    assert rows[0][1:] == ["30.0 %", "32.0 %", "+2.0 ± 0.5"] and head[1:] == ["start", "student", "change"]


def test_the_first_tile_has_interval_and_baselines(tmp_path):
    interval = {"interval": {"low": 0.345, "high": 0.369}}
    events = [{"event": "eval", "model": "student", "step": 0, "recall": {"1": 0.334}},
              {"event": "eval", "model": "student", "step": 9, "recall": {"1": 0.357}} | interval,
              VERDICT | {"verdict": "worse", "basis": "labels", "text": "LOWER"}]  # fmt: skip
    found = tiles(History.read(run_directory(tmp_path / "run", events)))[0]
    assert found == ("R@1 student", "35.7 %", "95 % from 34.5 to 36.9; LOWER")
