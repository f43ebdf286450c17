"""`python -m benchmarks.gpu_results OUT`: OUT/results.md from what the steps of benchmarks/gpu.sh left in OUT/steps."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.curve import curve

OUTCOMES = ("ok", "FAILED", "not checked")


def statuses(steps: Path) -> list[tuple[str, str, str]]:
    """Name, outcome and seconds of the steps that are done, in their order."""
    lines = (steps / "status.tsv").read_text(encoding="utf-8").splitlines()
    return [(name, status, seconds) for name, status, seconds in (line.split("\t") for line in lines if line)]


def kind(status: str) -> str:
    """Which of OUTCOMES a status begins with."""
    return next((each for each in OUTCOMES if status.startswith(each)), "FAILED")


def document(out: Path) -> str:
    """Markdown: machine, outcome of each step, ratios P1 to P13 by precision, checks, course of the run."""
    steps = out / "steps"
    done = statuses(steps)
    counts = Counter(kind(status) for _, status, _ in done)
    seen = {name: _text(steps / f"{name}.txt") for name, _, _ in done}
    parts = [f"# {out.name.replace('_', ' ')}", seen.get("machine", "").strip().replace("- ok: ", "- ")]
    parts.append("## Steps\n\n" + ", ".join(f"{counts[each]} {each}" for each in OUTCOMES) + ".")
    parts.append(_table(["step", "outcome", "seconds"], [list(each) for each in done]))
    if tables := _ratios(steps, [name for name, _, _ in done]):
        parts += ["## Ratios", *tables]
    checks = {name: text.strip() for name, text in seen.items() if text.startswith("- ") and name != "machine"}
    if checks:
        parts.append("## Checks")
    parts += [f"### {name}\n\n{text}" for name, text in checks.items()]
    if course := _course(steps / "run" / "metrics.jsonl"):
        parts += ["## Run", course]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ratios(steps: Path, names: list[str]) -> list[str]:
    """One table with a column for each way to compute, and the notes below it."""
    found: dict[str, dict[str, dict[str, Any]]] = {}  # by ratio and way
    for name in names:
        if name.startswith("bench_") and (text := _text(steps / f"{name}.json")):
            way = name.split("_")[1]
            for ratio, values in json.loads(text)["ratios"].items():
                found.setdefault(ratio, {})[way] = values
    if not found:
        return []
    ways = list(dict.fromkeys(way for measured in found.values() for way in measured))
    rows, notes = [], []
    for ratio in sorted(found, key=lambda name: (int(name.split()[0][1:]), name)):
        measured = found[ratio]
        target = next(iter(measured.values()))
        bound = f"{'<=' if target['at_most'] else '>='} {target['target']:g}"
        rows.append([ratio, target["what"], *(_cell(measured.get(way)) for way in ways), bound])
        said = dict.fromkeys(each["note"] for each in measured.values() if each["note"])
        for note in said:
            told = [ratio] + [way for way, each in measured.items() if len(said) > 1 and each["note"] == note]
            notes.append(f"- {', '.join(told)}: {note}")
    head = ["", "ratio of", *ways, "target"]
    return [_table(head, rows), "Each as ratio ± noise (numerator / denominator).", "\n".join(notes)]


def _cell(ratio: dict[str, Any] | None) -> str:
    if ratio is None or ratio["ratio"] is None:
        return ""
    over, under = (sorted(ratio[side])[len(ratio[side]) // 2] for side in ("numerators", "denominators"))
    met = {True: "", False: " **missed**", None: " (no target here)"}[ratio["met"]]
    return f"{ratio['ratio']:.3f} ± {ratio['noise']:.3f} ({over:,.4g} / {under:,.4g} {ratio['unit']}){met}"


def _course(path: Path) -> str:
    """The evaluations of the run so far; empty before the first."""
    lines = [line for line in _text(path).splitlines() if line.endswith("}")]  # the last may be half written
    events = [json.loads(line) for line in lines]
    if not any(event["event"] == "eval" and event["model"] in ("student", "teacher") for event in events):
        return ""
    try:
        return curve(events)
    except (KeyError, StopIteration):  # of two networks the first alone is evaluated so far
        return ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


if __name__ == "__main__":
    out = Path(sys.argv[1])
    (out / "results.md").write_text(document(out), encoding="utf-8")
