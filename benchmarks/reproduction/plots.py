"""The pictures of docs/reproduction.md: `python -m benchmarks.reproduction.plots --out docs/images`."""

import argparse
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import altair as alt
import numpy as np

from benchmarks.reproduction.run import RESULTS, read
from benchmarks.reproduction.table import grouped

WIDTH = 560
INK = "#444444"
STUDENT, TEACHER = "#3b82f6", "#f97316"


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--stage", nargs="+", default=["confirm"], help="files of settings that are drawn")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    targets().save(options.out / "reproduction_targets.png", scale_factor=2)
    ends(read(options.results), options.stage).save(options.out / "reproduction_ends.png", scale_factor=2)


def targets() -> alt.LayerChart | alt.FacetChart:
    """Target of equation 6 against the present distance of a pair that lies across both neighbourhoods (p = 0)."""
    d = np.linspace(0, 1.5, 61)
    curves = {
        "delta 2, N_alpha 4 (the paper)": 2 * (1 - (1 + d / 2) ** -4),
        "delta 1, N_alpha 4": 1 - (1 + d / 2) ** -4,
        "delta 2, N_alpha 2": 2 * (1 - (1 + d / 2) ** -2),
        "delta 2, a pair along a neighbourhood": 2 * (1 - (1 + d) ** -0.5),
    }
    rows = [{"d": x, "t": y, "of": name} for name, t in curves.items() for x, y in zip(d, t, strict=True)]
    ends = [{"d": x, "t": x} for x in (0.0, 1.5)]
    rule = alt.Chart(alt.Data(values=ends)).mark_line(color=INK, strokeDash=[4, 4], strokeWidth=1)
    line = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2)
    x = alt.X("d:Q", title="present distance of a pair")
    y = alt.Y("t:Q", title="target distance (dashed: stays)")
    colour = alt.Color("of:N", sort=list(curves), legend=alt.Legend(title=None, labelLimit=300))
    return alt.layer(rule.encode(x=x, y=y), line.encode(x=x, y=y, color=colour)).properties(
        width=WIDTH - 180, height=260
    )


def ends(records: list[dict[str, Any]], stages: list[str]) -> alt.LayerChart | alt.FacetChart:
    """R@1 of student and teacher at the last step, mean and standard deviation over seeds, beside the start."""
    rows = []
    for lines in grouped(records, stages):
        for name in ("student", "teacher"):
            values = [line["course"][-1][name]["1"] for line in lines]
            mean, spread = fmean(values), stdev(values) if len(values) > 1 else 0.0
            start = fmean(line["course"][0]["student"]["1"] for line in lines)
            rows.append({"setting": lines[0]["setting"], "of": name, "mean": mean, "low": mean - spread,
                         "high": mean + spread, "start": start})  # fmt: skip
    order = [lines[0]["setting"] for lines in grouped(records, stages)]
    base = alt.Chart(alt.Data(values=rows)).encode(y=alt.Y("setting:N", sort=order, title=None))
    scale = alt.Scale(domain=["student", "teacher"], range=[STUDENT, TEACHER])
    colour = alt.Color("of:N", scale=scale, legend=alt.Legend(title="last step (black: start)", orient="top"))
    x: dict[str, Any] = {"title": "R@1, %", "scale": alt.Scale(zero=False)}
    start = base.mark_tick(color="black", thickness=2, size=16).encode(x=alt.X("start:Q", **x))
    error = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", **x), x2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("mean:Q", **x), color=colour)
    return alt.layer(start, error, point).properties(width=WIDTH - 160, height=22 * len(order))


if __name__ == "__main__":
    main()
