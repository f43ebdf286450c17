"""The table of runs: seeds are averaged, experiments kept apart, the paper's rows stand beside them."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from dist_plm import compare
from dist_plm.cli import run_command
from dist_plm.config import Config, DataConfig, LossConfig, ModelConfig


def write_run(path, *, seed, recall, delta=2.0, dim=128, step=100):
    path.mkdir()
    config = replace(Config(run_dir=str(path), seed=seed), data=DataConfig(shards="elsewhere/cub200"),
                     loss=LossConfig(delta=delta), model=ModelConfig(dim=dim))  # fmt: skip
    (path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(asdict(config)))))
    events = [
        {"event": "eval", "model": "student", "step": 0, "recall": {"1": 0.1, "2": 0.2}},
        {"event": "eval", "model": "student", "step": step, "recall": {"1": recall, "2": 0.7}, "map_at_r": 0.25},
        {"event": "eval", "model": "teacher", "step": step, "recall": {"1": 0.99, "2": 0.99}},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def table(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as leaving:
        run_command(compare.main)
    out, err = capsys.readouterr()
    return leaving.value.code, out, err


def cells(out, begin):
    (line,) = [line for line in out.splitlines() if line.startswith(f"| {begin} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_are_averaged_and_experiments_named_by_what_differs(tmp_path, monkeypatch, capsys):
    recalls = [0.601, 0.611, 0.597]
    runs = [write_run(tmp_path / f"a{seed}", seed=seed, recall=recall) for seed, recall in enumerate(recalls)]
    runs.append(write_run(tmp_path / "b", seed=0, recall=0.5, delta=1.0, step=90))
    status, out, _ = table(monkeypatch, capsys, "--markdown", *runs)
    assert status == 0
    mean, std = 100 * np.mean(recalls), 100 * np.std(recalls, ddof=1)
    own = cells(out, "plm, delta 2.0")
    assert own[1:5] == ["128", "0, 1, 2", "100", f"{mean:.1f} ± {std:.1f}"]
    assert cells(out, "plm, delta 1.0")[2:5] == ["0", "90", "50.0"]
    paper = cells(out, "PLM (paper, table 1)")
    assert paper[1:3] == ["128", "5 runs"] and paper[4:8] == ["60.6 ± 0.3", "71.1 ± 0.2", "81.1 ± 0.1", "87.8 ± 0.1"]
    assert "61.7" not in out  # D = 512


def test_the_last_evaluation_of_the_network_asked_for(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", seed=3, recall=0.5, dim=512)
    _, out, _ = table(monkeypatch, capsys, "--markdown", "--model", "teacher", run)
    assert cells(out, "plm")[2:5] == ["3", "100", "99.0"]
    assert cells(out, "PLM, binary similarity (paper, table 3)")[4:6] == ["54.2", "66.5"]
    _, out, _ = table(monkeypatch, capsys, run)
    assert "cub200, student" in out and "plm" in out  # the terminal's
    _, out, _ = table(monkeypatch, capsys, "--markdown", "--data", "mine", run)
    assert "paper" not in out


def test_the_libraries_of_the_report_are_not_asked_for():
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, dist_plm.report.history; print({'altair', 'vl_convert'} & {*sys.modules})",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout == "set()\n", told.stderr


def test_a_run_without_evaluations_is_told(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", seed=0, recall=0.5)
    (run / "metrics.jsonl").write_text('{"event": "step", "step": 1}\n')
    status, _, err = table(monkeypatch, capsys, run)
    assert status == 2 and "no evaluation of the student" in err and len(err.splitlines()) == 1
    status, _, err = table(monkeypatch, capsys, tmp_path / "none")
    assert status == 2 and "is not a run directory" in err


def test_eighty_columns_hold_every_number(tmp_path, monkeypatch, capsys):
    """Two experiments that differ in long names, three seeds each: no number is cut, names stand below the table."""
    monkeypatch.setenv("COLUMNS", "80")
    recalls = [0.601, 0.611, 0.597]
    runs = [
        write_run(tmp_path / f"{delta}{seed}", seed=seed, recall=recall, delta=delta)
        for seed, recall in enumerate(recalls)
        for delta in (2.0, 1.25)
    ]
    status, out, _ = table(monkeypatch, capsys, *runs)
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    assert f"{100 * np.mean(recalls):.1f}±{100 * np.std(recalls, ddof=1):.1f}" in out and "…" not in out
    assert "  1  plm, delta 2.0" in out and "  2  plm, delta 1.25" in out
