"""Output of ratios: terminal table, Markdown, JSON, and comparison with an earlier measurement."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table

from dist_plm.bench.ratios import Ratio
from dist_plm.errors import UserError

HEADS = ["", "ratio of", "numerator", "denominator", "ratio", "noise", "target", "met"]


def drawn(ratios: list[Ratio], machine: dict[str, Any]) -> Group:
    """For the terminal: the machine, a table, a note for each ratio."""
    table = Table(caption="medians of the repeats; noise is half of their range", caption_justify="left")
    for head in HEADS:
        table.add_column(head, justify="left" if head in ("", "ratio of") else "right")
    for row in rows(ratios, machine):
        table.add_row(*row, style="red" if row[-1] == "no" else "dim" if not row[-1] else None)
    notes = [f"{ratio.name}: {ratio.note}" for ratio in ratios if ratio.note]
    return Group(described(machine), table, *notes)


def markdown(ratios: list[Ratio], machine: dict[str, Any]) -> str:
    """The same for a document."""
    rule = ["---" if head in ("", "ratio of") else "---:" for head in HEADS]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [HEADS, rule, *rows(ratios, machine)])
    notes = "\n".join(f"- {ratio.name}: {ratio.note}" for ratio in ratios if ratio.note)
    return f"{described(machine)}\n\n{table}\n\n{notes}\n"


def described(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def rows(ratios: list[Ratio], machine: dict[str, Any]) -> list[list[str]]:
    """A cell for each of HEADS; empty where nothing was measured."""
    table, device = [], device_of(machine)
    for ratio in ratios:
        target, row = ratio.target, [ratio.name, ratio.target.what, "", "", "", "", "", ""]
        row[6] = f"{'<=' if target.at_most else '>='} {ratio.bound(device):g}"
        if ratio.value is not None:
            middle = (median(values) for values in (ratio.numerators, ratio.denominators))
            row[2:4] = (f"{value:,.4g} {target.unit}" for value in middle)
            row[4:6] = f"{ratio.value:.3f}", f"{ratio.noise:.3f}"
            row[7] = {True: "yes", False: "no", None: "does not apply"}[ratio.met(device)]
        table.append(row)
    return table


def device_of(machine: dict[str, Any]) -> str:
    """`cpu` or `cuda`."""
    return "cpu" if machine["gpu"] == "none" else "cuda"


def as_json(ratios: list[Ratio], machine: dict[str, Any], sizes: dict[str, Any]) -> str:
    """The document that `compare` reads."""
    measured = {
        ratio.name: {
            "what": ratio.target.what,
            "unit": ratio.target.unit,
            "ratio": ratio.value,
            "noise": ratio.noise,
            "target": ratio.bound(device_of(machine)),
            "at_most": ratio.target.at_most,
            "met": ratio.met(device_of(machine)),
            "numerators": list(ratio.numerators),
            "denominators": list(ratio.denominators),
            "note": ratio.note,
        }
        for ratio in ratios
    }
    return json.dumps({"machine": machine, "sizes": sizes, "ratios": measured}, indent=1) + "\n"


def baseline(path: Path) -> dict[str, Any]:
    """Read the output of `as_json`.

    Raises:
        UserError: it is not there or something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"--compare {path} can't be read ({reason}): write one with --out") from error
    try:
        saved = json.loads(text)
        whole = saved["ratios"].keys() and saved["sizes"].keys() and saved["machine"].keys()
        if not whole or not all({"ratio", "noise", "at_most"} <= ratio.keys() for ratio in saved["ratios"].values()):
            raise ValueError("a part of it is missing")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"--compare {path} is no table of this command ({error!r}): write one with --out") from error
    return saved


def check_sizes(before: dict[str, Any], sizes: dict[str, Any], path: Path) -> None:
    """Raise UserError where the baseline was measured with other sizes: its ratios are others too."""
    there = before["sizes"]
    differing = [name for name in sizes.keys() | there.keys() if sizes.get(name) != there.get(name)]
    if differing:
        changed = "; ".join(f"{name}: {there.get(name)} there, {sizes.get(name)} here" for name in sorted(differing))
        raise UserError(f"--compare {path} was measured with other sizes ({changed}): take those")


def worse(ratios: list[Ratio], before: dict[str, Any]) -> list[str]:
    """Ratios that are worse than before by more than the noise of both, one per line."""
    lines = []
    for ratio in ratios:
        there = before["ratios"].get(ratio.name, {})
        if ratio.value is None or there.get("ratio") is None:
            continue
        loss = (ratio.value - there["ratio"]) * (1 if ratio.target.at_most else -1)
        noise = ratio.noise + there["noise"]
        if loss > noise:
            lines.append(f"{ratio.name} {ratio.value:.3f}, before {there['ratio']:.3f}, noise {noise:.3f}")
    return lines
