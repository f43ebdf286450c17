"""Results of a sweep: a line per run, and mean and standard deviation over seeds."""

import statistics
from pathlib import Path
from typing import Any

from dist_plm.errors import UserError
from dist_plm.slurm import record, sweep
from dist_plm.telemetry import events


def report(base: Path) -> str:
    """Both tables of the sweep in `base`, in Markdown.

    Raises:
        UserError: It is not a sweep.
    """
    runs = sweep.load(base / record.FOLDER)
    if not runs:
        raise UserError(f"{base} is not a sweep: name the run_dir of a command with --sweep")
    rows = [(values, measured(Path(path))) for path, values in runs]
    keys = list(dict.fromkeys(key for values, _ in rows for key in values))
    names = list(dict.fromkeys(name for _, numbers in rows for name in numbers))
    lines = [
        [*(values.get(key, "") for key in keys), progress(Path(path)), *(_percent(numbers.get(name)) for name in names)]
        for (path, values), (_, numbers) in zip(runs, rows, strict=True)
    ]
    tables = [_table([*keys, "run", *names], lines)]
    if "seed" in keys:
        tables.append(_over_seeds(rows, [key for key in keys if key != "seed"], names))
    return "\n\n".join(tables)


def measured(run: Path) -> dict[str, float]:
    """Metrics of the student's newest evaluation, shares in [0, 1]."""
    evaluation: dict[str, Any] = events.last(run, "eval", model="student")
    numbers = {f"R@{k}": share for k, share in evaluation.get("recall", {}).items()}
    return numbers | {
        title: evaluation[key] for key, title in (("map_at_r", "MAP@R"), ("nmi", "NMI")) if evaluation.get(key)
    }


def _over_seeds(rows: list[tuple[dict[str, str], dict[str, float]]], keys: list[str], names: list[str]) -> str:
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for values, numbers in rows:
        if numbers:
            groups.setdefault(tuple(values.get(key, "") for key in keys), []).append(numbers)
    lines = [
        [
            *group,
            str(len(members)),
            *(_mean([numbers[name] for numbers in members if name in numbers]) for name in names),
        ]
        for group, members in groups.items()
    ]
    return _table([*keys, "seeds", *names], lines)


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return _percent(values[0] if values else None)
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def progress(run: Path) -> str:
    """Progress of a run."""
    written = events.read(run)
    if written and written[-1]["event"] == "end":
        return "done"
    steps = [event["step"] for event in written if event["event"] == "step"]
    return f"step {steps[-1]}" if steps else "not started"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
