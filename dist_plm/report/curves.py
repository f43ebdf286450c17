"""Curves of a run's numbers over the steps, by heading."""

from dataclasses import dataclass, field
from itertools import pairwise

from dist_plm.report.charts import PlotRow, Spec, curve, has_course, thinned
from dist_plm.report.history import History

CAPTIONS = {
    "loss": "loss",
    "loss_point": "points (equation 6)",
    "loss_proxy": "proxies (equation 7)",
    "loss_neighbourhood": "neighbourhoods (equation 8)",
    "loss_instance": "instance discrimination (warm-up)",
    "lr": "learning rate",
    "images_per_second": "images per second",
    "wait_share": "share of the time spent waiting for data",
    "memory_gb": "peak memory of rank 0, GB",
    "mean_pair_distance": "mean distance of a pair of points",
    "effective_rank": "effective rank of a batch's embeddings",
    "neighbourhood_size": "members of a local neighbourhood (X_i)",
    "same_label": "share of a point's neighbours with its label",
    "positives_attracted": "positive pairs (same label) attracted by the loss",
    "negatives_attracted": "negative pairs attracted by the loss",
    "instance_accuracy": "instance discrimination accuracy (warm-up)",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
}
LABEL_FREE = {
    "agreement": "neighbour agreement of two views",
    "view_recall": "view recall (other view is nearest)",
    "strong_view_recall": "strong view recall (small crops)",
    "effective_rank": "effective rank",
    "uniformity": "uniformity (larger: wider spread)",
    "hubness": "hubness: largest share with one neighbour",
}
LABEL_FREE_SHARES = ("agreement", "view_recall", "strong_view_recall", "hubness")
SPEED = ("lr", "images_per_second", "wait_share", "memory_gb")
SUPERVISION = ("label_purity", "same_label", "positives_attracted", "negatives_attracted")
CONTROL = "_control"
SHARES = ("wait_share", "accuracy")
MARKED = ("resumed", "preempted", "requeued", "failure", "non_finite")
MOST_MARKS = 50


@dataclass
class Group:
    """Charts under one heading: (caption, specification)."""

    id: str
    heading: str
    note: str
    charts: list[tuple[str, Spec]] = field(default_factory=list)


def groups(histories: list[History]) -> list[Group]:
    """All curves, the runs side by side; groups without numbers are omitted."""
    runs = [history.name for history in histories]
    marks = _marks(histories)
    steps = _by_name(histories)
    sections = _headings()
    for name, rows in sorted(_evaluations(histories).items(), key=lambda item: _evaluation_order(item[0])):
        sections[0].charts.append((_caption(name), curve(rows, runs, marks=marks, share=True, dash="model")))
    for name, rows in label_free_rows(histories).items():
        spec = curve(rows, runs, marks=marks, share=name in LABEL_FREE_SHARES, dash="model")
        sections[1].charts.append((LABEL_FREE[name], spec))
    for name in SUPERVISION:
        if name in steps:
            rows = [row | {"of": "supervision"} for row in _thin(steps[name], runs)]
            rows += [row | {"of": "control"} for row in _thin(steps.get(name + CONTROL, []), runs)]
            if has_course(rows, "of"):
                sections[3].charts.append((_caption(name), curve(rows, runs, marks=marks, share=True, dash="of")))
    elsewhere = (*SPEED, *SUPERVISION, *(name + CONTROL for name in SUPERVISION))
    for group, names in (
        (sections[2], [name for name in steps if name.startswith("loss")]),
        (sections[4], [name for name in steps if not name.startswith("loss") and name not in elsewhere]),
        (sections[5], [name for name in SPEED if name in steps]),
    ):
        for name in names:
            share, rows = any(part in name for part in SHARES), _thin(steps[name], runs)
            if not has_course(rows):
                continue
            spec = curve(rows, runs, marks=marks, share=share, from_zero=name in SPEED)
            group.charts.append((_caption(name), spec))
    return [group for group in sections if group.charts]


def _headings() -> list[Group]:
    return [
        Group(
            "recall",
            "Recall",
            "Labelled queries of the test split. Solid: student, dashed: teacher, horizontal: the pretrained features "
            "without training (baseline). Bands: 95 % confidence intervals by a bootstrap over queries.",
        ),
        Group(
            "label_free",
            "Without labels",
            "Two random views of each held-out image. Solid: student, dashed: teacher. Bands: ± two standard errors.",
        ),
        Group("losses", "Losses", "Means over the pairs of the global batch."),
        Group(
            "supervision",
            "Supervision",
            "Quality of the self-supervision, measured with labels that training does not use. "
            "Dashed: control, the same number of nearest neighbours.",
        ),
        Group("embedding", "Embedding", "Distances near 0 or an effective rank near 1 indicate collapse."),
        Group("speed", "Speed", "Means between two log lines."),
    ]


def _thin(rows: list[PlotRow], runs: list[str]) -> list[PlotRow]:
    return [row for run in runs for row in thinned([row for row in rows if row["run"] == run])]


def _by_name(histories: list[History]) -> dict[str, list[PlotRow]]:
    """The numbers of steps."""
    table: dict[str, list[PlotRow]] = {}
    for history in histories:
        for step, name, value in history.numbers("step"):
            table.setdefault(name, []).append({"run": history.name, "step": step, "value": value})
    return table


def _evaluations(histories: list[History]) -> dict[str, list[PlotRow]]:
    """R@1, MAP@R, NMI and the largest K; the tables hold the rest."""
    table: dict[str, list[PlotRow]] = {}
    for history in histories:
        for event in history.of("eval"):
            place = {"run": history.name, "step": event["step"], "model": event["model"]}
            recall = event.get("recall", {})
            numbers = {f"recall@{k}": recall[k] for k in {min(recall, key=int), max(recall, key=int)}} if recall else {}
            numbers |= {name: event[name] for name in ("map_at_r", "nmi") if event.get(name) is not None}
            for name, value in numbers.items():
                band = event.get("interval", {}) if recall and name == f"recall@{min(recall, key=int)}" else {}
                table.setdefault(name, []).append(place | {"value": value} | band)
                if event["model"] == "frozen":  # a line to beat, to the end of the run
                    table[name].append(place | {"value": value, "step": history.last_step})
    return {name: rows for name, rows in table.items() if has_course(rows, "model")}


def label_free_rows(histories: list[History]) -> dict[str, list[PlotRow]]:
    """The statistics without labels that have a course, with a band of two standard errors."""
    table: dict[str, list[PlotRow]] = {name: [] for name in LABEL_FREE}
    for history in histories:
        for event in history.of("label_free"):
            # Before the first step the two networks are one.
            for model in ("student", "teacher") if event.get("when") == "start" else (event["model"],):
                place = {"run": history.name, "step": event["step"], "model": model}
                for name in LABEL_FREE.keys() & event["values"].keys():
                    value, error = event["values"][name], 2 * event["values_error"].get(name, 0.0)
                    table[name].append(place | {"value": value, "low": value - error, "high": value + error})
    return {name: rows for name, rows in table.items() if has_course(rows, "model")}


def _evaluation_order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return ("recall", "map_at_r", "nmi").index(kind), int(k or 0)


def _caption(name: str) -> str:
    return CAPTIONS.get(name, name.replace("recall@", "R@").replace("_", " ").replace("loss ", ""))


def _marks(histories: list[History]) -> list[PlotRow]:
    """Starts of phases, restarts and warnings."""
    marks = []
    for history in histories:
        name = f"{history.name}: " if len(histories) > 1 else ""
        steps = history.of("step")
        for before, event in pairwise(steps):
            if before.get("phase") != event.get("phase"):
                marks.append({"step": before["step"], "what": f"{name}{event['phase']} begins", "colour": "#94a3b8"})
        for step, kind, _ in history.incidents():
            if kind in MARKED:
                marks.append({"step": step, "what": name + kind, "colour": "#d97706"})
    return marks[:MOST_MARKS]
