"""`python -m dist_plm.bench` with small sizes: every ratio is measured, and a baseline that was better is noticed."""

import json

import pytest

from dist_plm.bench import __main__ as bench
from tests.commands import on_ranks

SMALL = ("--quick", "--runtime.threads", 1, "--data.workers", 1, "--runtime.device", "cpu")


@pytest.fixture
def one_repeat(monkeypatch):
    monkeypatch.setattr(bench, "QUICK_REPEATS", 1)


def test_all_ratios_of_one_rank(tmp_path, here, one_repeat):
    out = tmp_path / "table.json"
    outcome = here(bench.main, *SMALL, "--out", out, "--markdown")
    assert outcome.status == 0, outcome.err
    assert "| P1 | full step / plain step" in outcome.out
    found = json.loads(out.read_text())
    ratios = found["ratios"]
    assert ratios.keys() == {*bench.NAMES, "P4 wait"} and all(name in outcome.out for name in ratios)
    measured = {name: ratio for name, ratio in ratios.items() if ratio["ratio"] is not None}
    assert ratios.keys() - measured.keys() == {"P3"}
    for name, ratio in measured.items():
        assert len(ratio["numerators"]) == len(ratio["denominators"]) >= 1, name
        assert min(ratio["denominators"]) > 0 <= min(ratio["numerators"]), name
    assert ratios["P1"]["numerators"] != ratios["P1"]["denominators"]
    assert 0 < ratios["P2"]["ratio"] < 1 and 0 < ratios["P7"]["ratio"] < 1
    assert ratios["P12"]["ratio"] < 1 and ratios["P13"]["ratio"] == pytest.approx(1 - ratios["P7"]["ratio"])
    # Two batches of 20 images are in flight. A run that began its epoch anew would read at least four.
    assert ratios["P10"]["denominators"] == [40] and 20 <= ratios["P10"]["numerators"][0] <= 40
    assert found["machine"]["gpu"] == "none" and found["machine"]["threads"] == 1


def test_a_better_baseline_is_missed(tmp_path, here, one_repeat):
    out, only = tmp_path / "table.json", (*SMALL, "--only", "P6")
    assert here(bench.main, *only, "--out", out).status == 0
    found = json.loads(out.read_text())
    for factor, status in ((1e-3, 0), (1e3, 1)):
        ratio = found["ratios"]["P6"]["ratio"] * factor
        out.write_text(json.dumps({**found, "ratios": {"P6": {**found["ratios"]["P6"], "ratio": ratio}}}))
        outcome = here(bench.main, *only, "--compare", out)
        assert outcome.status == status, outcome.err
    assert "worse than in" in outcome.err and "P6" in outcome.err


def test_two_ranks(tmp_path):
    out = tmp_path / "table.json"
    ranks = on_ranks(2, "dist_plm.bench", *SMALL, "--out", out)
    outcomes = [rank.wait() for rank in ranks]
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    ratios = json.loads(out.read_text())["ratios"]
    assert ratios.keys() == {"P1", "P2", "P3"}
    assert ratios["P3"]["met"] is None  # the target is for GPUs
    assert len(ratios["P3"]["numerators"]) == bench.QUICK_REPEATS and ratios["P3"]["ratio"] > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--only", "P14"), "P14"),
        (("--only", "P1,P99"), "P99"),
        (("--out", "nowhere/table.json"), "nowhere"),
        (("--compare", "gone.json"), "gone.json"),
        (("--shards", "gone"), "gone"),
        (("--model.dim", "2"), "manifold.dim"),
    ],
)
def test_wrong_use(here, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    quick = () if "--model.dim" in arguments else ("--quick",)
    outcome = here(
        bench.main, *arguments, *quick, *(("--batch.groups", 1, "--batch.group_size", 20) if not quick else ())
    )
    assert outcome.status == 2 and named in outcome.err and len(outcome.err.splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_several_ranks_have_three_ratios(here):
    outcome = here(bench.main, "--only", "P4", WORLD_SIZE="2")
    assert outcome.status == 2 and "on 2 ranks; choose from P1, P2, P3" in outcome.err
