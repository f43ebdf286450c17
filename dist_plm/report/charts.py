"""Charts as Vega-Lite specifications. Vega, and not plotly: 0.9 MB of script inside the page instead of 4, and its
tooltips show images."""

from typing import Any

import altair as alt

Spec = dict[str, Any]
PlotRow = dict[str, Any]

HEIGHT = 190
MOST_BARS = 40  # of a histogram
MOST_ROWS = 1_000  # of a curve; beyond it every n-th is drawn
PARTS = ["#3b82f6", "#f97316", "#a855f7", "#10b981", "#eab308", "#ec4899", "#14b8a6", "#ef4444", "#94a3b8"]
RUNS = ["#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#eab308", "#ec4899"]


def thinned(rows: list[PlotRow]) -> list[PlotRow]:
    """At most MOST_ROWS of the rows, evenly, and the last."""
    every = -(-len(rows) // MOST_ROWS)
    return rows if every <= 1 else [*rows[:-1:every], rows[-1]]


def has_course(rows: list[PlotRow], dash: str = "") -> bool:
    """Whether any line has at least three points; fewer are shown in a table."""
    steps: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        steps.setdefault((row["run"], row.get(dash, "")), set()).add(row["step"])
    return any(len(points) > 2 for points in steps.values())


def curve(
    rows: list[PlotRow],
    runs: list[str],
    *,
    marks: list[PlotRow],
    share: bool = False,
    dash: str = "",
    from_zero: bool = False,
) -> Spec:
    """A number over the steps of training, one line a run.

    Args:
        rows: {run, step, value}, where it is known {low, high} of a 95 % interval, drawn as a band, and, where `dash`
            names it (see DASHES), a second way to tell lines apart.
        runs: All runs of the page, in order: a run has the same colour everywhere.
        marks: {step, what, colour} of phases, restarts and warnings, drawn as vertical lines.
        share: The value is a share, shown in per cent.
        from_zero: The axis begins at 0; otherwise where the values do.
    """
    values = alt.Axis(format="~%" if share else ".4~g", tickCount=4)
    tip = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".2%" if share else ".4~g")]
    tip += [alt.Tooltip("run:N")] * (len(runs) > 1) + [alt.Tooltip(f"{dash}:N")] * bool(dash)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("step:Q", title=None, axis=alt.Axis(format=",~f", tickCount=5, tickMinStep=1)),
        y=alt.Y("value:Q", title=None, axis=values, scale=alt.Scale(zero=from_zero, nice=True)),
        color=_colour(runs),
        tooltip=tip,
    )
    plain = base
    if dash:
        base = base.encode(
            strokeDash=alt.StrokeDash(
                f"{dash}:N", legend=None, scale=alt.Scale(domain=[*DASHES[dash]], range=[*DASHES[dash].values()])
            )
        )
    hover = alt.selection_point(on="pointerover", nearest=True, fields=["step"], empty=False, clear="pointerout")
    points = base.mark_point(filled=True, size=45).encode(
        opacity=alt.condition(hover, alt.value(1), alt.value(0)), strokeDash=alt.Undefined
    )
    layers = [base.mark_line(strokeWidth=1.8, clip=True), points.add_params(hover)]
    if any("low" in row for row in rows):
        apart = {"detail": f"{dash}:N"} if dash else {}
        layers.insert(0, plain.mark_area(opacity=0.14, clip=True).encode(y="low:Q", y2="high:Q", **apart))
    if marks:
        rule = alt.Chart(alt.Data(values=marks)).mark_rule(strokeDash=[3, 3], opacity=0.6)
        colour = alt.Color("colour:N", scale=None)
        layers.insert(0, rule.encode(x="step:Q", color=colour, tooltip=["what:N", "step:Q"]))
    return _spec(alt.layer(*layers).resolve_scale(color="independent"), HEIGHT)


# Line patterns by the name and value of the attribute that distinguishes lines.
DASHES = {
    "model": {"student": [1, 0], "teacher": [5, 3], "frozen": [8, 4], "raw pixels": [1, 3]},
    "of": {"supervision": [1, 0], "control": [5, 3]},
}


def bars(rows: list[PlotRow], runs: list[str], unit: str) -> Spec:
    """Time by activity: {run, what, time} as one bar per run."""
    order = list(dict.fromkeys(row["what"] for row in rows))
    chart = (
        alt.Chart(alt.Data(values=[row | {"order": order.index(row["what"])} for row in rows]))
        .mark_bar(height=22)
        .encode(
            x=alt.X("time:Q", title=unit, axis=alt.Axis(tickCount=5, format=",~f")),
            y=alt.Y("run:N", title=None, sort=runs, axis=alt.Axis(labelLimit=90, ticks=False, domain=False)),
            color=alt.Color(
                "what:N",
                sort=order,
                scale=alt.Scale(domain=order, range=PARTS[: len(order)]),
                legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=200),
            ),
            order="order:Q",
            tooltip=["run:N", "what:N", alt.Tooltip("time:Q", title=unit, format=",.1f")],
        )
    )
    return _spec(chart, 36 * len(runs) + 10)


def histogram(rows: list[PlotRow], run: str, runs: list[str]) -> Spec:
    """Histogram of reads per image: {reads, images}, one bar per number of reads, or range of them."""
    first, last = rows[0]["reads"], rows[-1]["reads"]
    width = (last - first) // MOST_BARS + 1
    bars: dict[int, int] = {}
    for row in rows:
        low = first + (row["reads"] - first) // width * width
        bars[low] = bars.get(low, 0) + row["images"]
    values = [
        {"run": run, "reads": low, "times": str(low) if width == 1 else f"{low} to {low + width - 1}", "images": images}
        for low, images in bars.items()
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar()
        .encode(
            x=alt.X(
                "times:O",
                sort=[str(row["times"]) for row in values],
                title="times read",
                axis=alt.Axis(labelAngle=0, labelOverlap=True),
            ),
            y=alt.Y("images:Q", title="images", axis=alt.Axis(tickCount=4, format=",~f")),
            color=_colour(runs),
            tooltip=[alt.Tooltip("times:O", title="times read"), alt.Tooltip("images:Q", format=",")],
        )
    )
    return _spec(chart, HEIGHT)


def point_map(rows: list[PlotRow], colours: dict[str, str]) -> Spec:
    """A scatter of {x, y, class, found, image}: a thumbnail on hover, a click picks a class out."""
    picked = alt.selection_point(fields=["class"], on="click", clear="dblclick")
    whole = alt.Scale(domain=[-0.02, 1.02], nice=False)
    tip = [alt.Tooltip("image:N"), alt.Tooltip("class:N"), alt.Tooltip("nearest neighbour:N")]
    domain = list(colours)
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=34)
        .encode(
            x=alt.X("x:Q", axis=None, scale=whole),
            y=alt.Y("y:Q", axis=None, scale=whole),
            color=alt.Color("class:N", legend=None, scale=alt.Scale(domain=domain, range=[*colours.values()])),
            shape=alt.Shape(
                "nearest neighbour:N",
                scale=alt.Scale(domain=FOUND, range=["circle", "cross", "square"]),
                legend=None,
            ),
            opacity=alt.condition(picked, alt.value(0.85), alt.value(0.1)),
            tooltip=tip if len(domain) > 1 else tip[:1],
        )
        .add_params(picked)
    )
    return _spec(chart, 460)


FOUND = ["right", "wrong", "unknown"]


def _colour(runs: list[str]) -> alt.Color:
    palette = [RUNS[number % len(RUNS)] for number in range(len(runs))]
    return alt.Color("run:N", legend=None, scale=alt.Scale(domain=runs, range=palette))


def _spec(chart: alt.Chart | alt.LayerChart, height: int) -> Spec:
    spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page sets fonts and colours, light or dark
    return spec
