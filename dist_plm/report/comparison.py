"""Table of experiments, mean and standard deviation over seeds, beside published results."""

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from dist_plm.evaluation.published import published

Numbers = dict[str, tuple[float, float | None]]  # by column: mean, standard deviation


@dataclass(frozen=True)
class RunResult:
    """Data of a run for the table.

    Args:
        name: For display.
        seed: Of the run.
        settings: Flat keys of its configuration that affect results, without the seed.
        data: Name of the data set.
        result: Its last evaluation: {"step", "recall": {"1": share}, "map_at_r", "nmi"}.
    """

    name: str
    seed: int
    settings: dict[str, Any]
    data: str
    result: dict[str, Any]


@dataclass(frozen=True)
class TableRow:
    """A row of the table: numbers in %, with the standard deviation over several seeds."""

    name: str
    dim: int
    seeds: str
    steps: str
    numbers: Numbers
    source: str = ""

    def cell(self, column: str) -> str:
        """A formatted number; empty if there is none."""
        if column not in self.numbers:
            return ""
        mean, std = self.numbers[column]
        return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def rows_of(runs: list[RunResult]) -> list[TableRow]:
    """One row for each experiment, in the order of first appearance, named by what sets it apart from the others."""
    groups: list[list[RunResult]] = []
    for run in runs:
        same = next((group for group in groups if group[0].settings == run.settings), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    return [_row(group, _differences(groups)) for group in groups]


def paper_rows(data: str, dims: set[int]) -> list[TableRow]:
    """Rows of table 1, and for CUB of table 3, at the given embedding dimensions; of a run at another, none."""
    table, ablations = published()["recall"], published()["ablations"]
    rows = []
    for record in table["rows"]:
        if data in record and record["dim"] in dims:
            std = record.get("std", {}).get(data, [None] * len(record[data]))
            known: Numbers = {
                f"R@{k}": (mean, s) for k, mean, s in zip(table["ks"][data], record[data], std, strict=True)
            }
            rows.append(
                _published(record["method"], record["dim"], known, table["source"], 5 if "std" in record else 0)
            )
    if data == ablations["data"] and ablations["dim"] in dims:
        for record in ablations["rows"][:-1]:  # the last is the method itself, a row of table 1
            numbers: Numbers = {
                f"R@{k}": (recall, None) for k, recall in zip(ablations["ks"], record["recall"], strict=True)
            }
            rows.append(_published(f"PLM, {record['method']}", ablations["dim"], numbers, ablations["source"], 5))
    return rows


def columns_of(rows: list[TableRow]) -> list[str]:
    """The non-empty columns: R@K by K, then the others."""
    names = {name for row in rows for name in row.numbers}
    return sorted(
        names, key=lambda name: (not name.startswith("R@"), int(name[2:]) if name.startswith("R@") else 0, name)
    )


def _published(method: str, dim: int, numbers: Numbers, source: str, runs: int) -> TableRow:
    return TableRow(method, dim, f"{runs} runs" if runs else "", "", numbers, source)


def _row(group: list[RunResult], differing: list[str]) -> TableRow:
    settings, steps = group[0].settings, sorted({run.result["step"] for run in group})
    named = [f"{key.rpartition('.')[2]} {settings.get(key)}" for key in differing if key != "train.method"]
    numbers: Numbers = {}
    for column in dict.fromkeys(column for run in group for column in _measured(run)):
        values = [numbers[column] for numbers in map(_measured, group) if column in numbers]
        numbers[column] = (fmean(values), stdev(values) if len(values) > 1 else None)
    return TableRow(
        ", ".join([str(settings["train.method"]), *named]),
        settings["model.dim"],
        ", ".join(str(run.seed) for run in sorted(group, key=lambda run: run.seed)),
        "-".join(str(step) for step in dict.fromkeys((steps[0], steps[-1]))),
        numbers,
    )


def _measured(run: RunResult) -> dict[str, float]:
    """Numbers of a run in %, by column."""
    numbers = {f"R@{k}": share for k, share in run.result["recall"].items()}
    numbers |= {"MAP@R": run.result.get("map_at_r"), "NMI": run.result.get("nmi")}
    return {name: 100 * value for name, value in numbers.items() if value is not None}


def _differences(groups: list[list[RunResult]]) -> list[str]:
    """Keys in which the experiments differ, in the order of the schema."""
    keys = dict.fromkeys(key for group in groups for key in group[0].settings)
    return [
        key for key in keys if any(group[0].settings.get(key) != groups[0][0].settings.get(key) for group in groups)
    ]
