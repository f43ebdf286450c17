"""The arithmetic of the ratios: what is met, what is noise, what counts as worse."""

import json
from pathlib import Path

import pytest

from dist_plm.bench import table
from dist_plm.bench.ratios import TARGETS, Ratio, in_turns, rate_ratio
from dist_plm.errors import UserError

CPU, GPU = {"gpu": "none"}, {"gpu": "a GPU"}


def test_a_ratio_is_taken_within_a_repeat():
    # The ratio of the medians is 1.5, that of the means 1.
    ratio = Ratio("P1", [1.0, 4.0, 3.0], [2.0, 2.0, 4.0])
    assert ratio.repeats == pytest.approx([0.5, 2.0, 0.75])
    assert ratio.value == pytest.approx(0.75)
    assert ratio.noise == pytest.approx(0.75)


def test_both_sides_run_in_turns():
    order = []
    over, under = in_turns(3, lambda: order.append("over") or 1.0, lambda: order.append("under") or 2.0)
    assert (over, under) == ([1.0] * 3, [2.0] * 3)
    assert order == ["under", "over", "over", "under", "under", "over"]


def test_rates():
    ratio = rate_ratio("P4", [0.25], [0.2])
    assert (ratio.numerators, ratio.denominators) == ([4.0], [5.0])
    assert ratio.value == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("name", "value", "cpu", "gpu"),
    [("P2", 0.04, False, True), ("P2", 0.01, True, True), ("P4", 0.89, False, False), ("P4", 0.91, True, True)],
)
def test_met(name, value, cpu, gpu):
    ratio = Ratio(name, [value], [1.0])
    assert (ratio.met("cpu"), ratio.met("cuda")) == (cpu, gpu)


def test_not_measured_is_neither_met_nor_missed():
    assert Ratio("P3", note="why").met("cpu") is None
    assert Ratio("P3", [1.0], [2.0], applies=False).met("cpu") is None


def test_every_ratio_has_a_row_in_both_tables():
    ratios = [Ratio(name, [1.0, 2.0], [1.0, 1.0], "why") for name in TARGETS]
    for machine in (CPU, GPU):
        rows = table.rows(ratios, machine)
        assert [row[0] for row in rows] == list(TARGETS) and {len(row) for row in rows} == {len(table.HEADS)}
        text = table.markdown(ratios, machine)
        assert all(f"| {name} |" in text for name in TARGETS)
    assert [row[4:6] for row in rows] == [["1.500", "0.500"]] * len(rows)


def written(folder: Path, **values: list[float]) -> dict:
    path = folder / "before.json"
    ratios = [Ratio(name, over, [1.0] * len(over)) for name, over in values.items()]
    path.write_text(table.as_json(ratios, CPU, {"batch.groups": 4}))
    return table.baseline(path)


def test_worse_by_more_than_the_noise_of_both(tmp_path):
    before = written(tmp_path, P1=[1.0, 1.02], P4=[0.95, 0.95], P6=[0.5, 0.5])
    now = [Ratio("P1", [1.05, 1.07], [1, 1]), Ratio("P4", [0.94, 0.96], [1, 1]), Ratio("P6", [0.4, 0.4], [1, 1])]
    # P1 rose by .05 at a noise of .01 + .01, P4 is where it was, P6 fell by .1 at none.
    assert [line.split()[0] for line in table.worse(now, before)] == ["P1", "P6"]
    assert table.worse([Ratio("P1", [1.0, 1.03], [1, 1])], before) == []
    assert table.worse([Ratio("P6", [0.9], [1]), Ratio("P1", [0.5], [1])], before) == []  # better is not worse


def test_what_one_of_the_tables_lacks_is_left_out(tmp_path):
    before = written(tmp_path, P1=[1.0])
    assert table.worse([Ratio("P9", [5.0], [1]), Ratio("P1", note="not measured")], before) == []


def test_other_sizes_are_refused(tmp_path):
    before = written(tmp_path, P1=[1.0])
    table.check_sizes(before, {"batch.groups": 4}, Path("b.json"))
    with pytest.raises(UserError, match=r"batch\.groups: 4 there, 5 here"):
        table.check_sizes(before, {"batch.groups": 5}, Path("b.json"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratios": {"P1": 3}, "sizes": {}, "machine": {}}'])
def test_a_file_that_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no table of this command"):
        table.baseline(path)
    with pytest.raises(UserError, match=r"can.t be read \(No such file"):
        table.baseline(tmp_path / "gone.json")


def test_json_says_what_was_measured(tmp_path):
    found = json.loads(table.as_json([Ratio("P2", [1.0], [4.0], "why")], CPU, {"quick": True}))
    assert found["ratios"]["P2"]["ratio"] == 0.25 and found["ratios"]["P2"]["met"] is False
    assert found["sizes"] == {"quick": True} and found["machine"] == CPU
