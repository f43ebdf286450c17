"""A sweep is one job array, and its table fills itself."""

import pytest

from dist_plm.slurm import __main__ as launcher
from tests.end_to_end.conftest import events, tensors, train
from tests.slurm.conftest import Slurm

pytestmark = pytest.mark.timeout(600)


def test_three_runs_fill_their_table(slurm: Slurm, config, tmp_path, capsys):
    base = tmp_path / "sweep"
    line = ["--tasks-per-node", "1", "--time", "30", "--config", str(config), "--run_dir", str(base)]
    line += ["--train.max_steps", "9", "--sweep", "seed=0..2"]
    assert launcher.main(line) == 0
    array = capsys.readouterr().err.split()[1].rstrip(":")
    assert len(slurm.ask("squeue", "-h", "-r", "-j", array, "-o", "%i").split()) == 3
    slurm.until_left(array, base)

    assert launcher.main(["results", str(base)]) == 0
    runs, means = capsys.readouterr().out.strip().split("\n\n")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in runs.splitlines()]
    assert rows[0][:3] == ["seed", "run", "R@1"]
    recalls = []
    for seed, row in enumerate(rows[2:]):
        recall = events(base / f"seed={seed}", "eval")[-2]["recall"]["1"]
        assert row[:3] == [str(seed), "done", f"{100 * recall:.2f}"]
        recalls.append(100 * recall)
    mean = sum(recalls) / 3
    deviation = (sum((recall - mean) ** 2 for recall in recalls) / 2) ** 0.5
    assert f"| 3 | {mean:.2f} ± {deviation:.2f} |" in means

    alone = tmp_path / "alone"
    train(1, config, alone, "--seed", 1, "--train.max_steps", 9)
    found, wanted = tensors(base / "seed=1"), tensors(alone)
    assert all(found[name].equal(value) for name, value in wanted.items())


def test_parts_of_a_data_set_are_the_data_set(slurm: Slurm, tmp_path):
    build = ["demo", "--images", "60", "--size", "32", "--classes", "8", "--shard-size", "0.005"]
    out = tmp_path / "demo"
    line = ["--task", "shards", "--parts", "3", "--cpus-per-task", "1", "--time", "30", *build, "--out", str(out)]
    assert launcher.main(line) == 0
    slurm.until((out / "manifest.json").exists, tmp_path / "demo.jobs")

    from dist_plm.datasets.build import main

    assert main([*build, "--workers", "1", "--out", str(tmp_path / "whole")]) == 0
    found, wanted = (
        {path.name: path.read_bytes() for path in folder.glob("*.*")} for folder in (out, tmp_path / "whole")
    )
    assert found == wanted
