"""`python benchmarks/curve.py RUN`: a run's course as a Markdown table, one row an evaluation."""

import json
import sys
from pathlib import Path
from statistics import fmean

TERMS = ("loss", "loss_point", "loss_proxy", "loss_neighbourhood", "neighbourhood_size", "mean_pair_distance")


def curve(events: list[dict]) -> str:
    """Recall of student and teacher at each evaluation; terms are means over the logged steps since the one before."""
    evaluations: dict[int, dict[str, dict]] = {}
    for event in events:
        if event["event"] == "eval" and event["model"] in ("student", "teacher"):
            evaluations.setdefault(event["step"], {})[event["model"]] = event
    ks = list(next(iter(evaluations.values()))["student"]["recall"])
    head = ["step", *(f"R@{k} student" for k in ks), *(f"R@{k} teacher" for k in ks), "MAP@R student", "MAP@R teacher"]
    lines = [head + [term.replace("loss_", "") for term in TERMS]]
    before = 0
    for step, models in sorted(evaluations.items()):
        logged = [e for e in events if e["event"] == "step" and before < e["step"] <= step]
        row = [f"{step}"]
        row += [f"{100 * models[name]['recall'][k]:.2f}" for name in ("student", "teacher") for k in ks]
        row += [f"{100 * models[name]['map_at_r']:.2f}" for name in ("student", "teacher")]
        row += [f"{fmean(values):.4f}" if (values := [e[t] for e in logged if t in e]) else "" for t in TERMS]
        lines.append(row)
        before = step
    rule = ["---:"] * len(lines[0])
    return "\n".join("| " + " | ".join(row) + " |" for row in [lines[0], rule, *lines[1:]])


if __name__ == "__main__":
    text = (Path(sys.argv[1]) / "metrics.jsonl").read_text(encoding="utf-8")
    print(curve([json.loads(line) for line in text.splitlines()]))
