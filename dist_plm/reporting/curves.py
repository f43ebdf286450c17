"""Which numbers of the runs are drawn over the steps, and under which heading."""

from dataclasses import dataclass, field
from itertools import pairwise

from dist_plm.reporting.charts import Row, Spec, curve, thinned
from dist_plm.reporting.history import History

CAPTIONS = {
    "loss": "loss",
    "loss_point": "points (equation 6)",
    "loss_proxy": "proxies (equation 7)",
    "loss_neighbourhood": "neighbourhoods (equation 8)",
    "loss_instance": "instance discrimination (warm-up)",
    "lr": "learning rate",
    "images_per_second": "images a second",
    "wait_share": "share of the time spent waiting for data",
    "memory_gb": "peak memory of rank 0, GB",
    "mean_pair_distance": "mean distance of a pair of points",
    "effective_rank": "effective rank of a batch's embeddings",
    "neighbourhood_size": "points in X_i",
    "instance_accuracy": "instances told apart (warm-up)",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
}
SPEED = ("lr", "images_per_second", "wait_share", "memory_gb")
SHARES = ("recall@", "map_at_r", "nmi", "wait_share", "accuracy", "precision", "coverage", "share")
COUNTS = ("queries", "dropped", "seconds")
MARKED = ("resumed", "preempted", "failure", "non_finite")
MOST_MARKS = 50


@dataclass
class Group:
    """Charts under one heading: (caption, specification)."""

    id: str
    heading: str
    note: str
    charts: list[tuple[str, Spec]] = field(default_factory=list)


def groups(histories: list[History]) -> list[Group]:
    """All curves, the runs side by side; a group without numbers is left out."""
    runs = [history.name for history in histories]
    marks = _marks(histories)
    steps = _by_name(histories, "step")
    found = [
        Group("recall", "Recall", "On the test split, whose classes were never seen. Solid: student, dashed: teacher."),
        Group("losses", "Losses", "Means over pairs, of the global batch."),
        Group("supervision", "Supervision", "How good the pairs are that the method makes up, judged by labels."),
        Group("embedding", "The embedding", "Distances near 0 or a rank near 1 mean collapse."),
        Group("speed", "Speed", "Rates between two log lines."),
    ]
    for name, rows in sorted(_evaluations(histories).items(), key=lambda each: _evaluation_order(each[0])):
        found[0].charts.append((_caption(name), curve(rows, runs, marks=marks, share=True, dash="model")))
    supervision = _by_name(histories, "supervision")
    for group, names, source in (
        (found[1], [name for name in steps if name.startswith("loss")], steps),
        (found[2], list(supervision), supervision),
        (found[3], [name for name in steps if not name.startswith("loss") and name not in SPEED], steps),
        (found[4], [name for name in SPEED if name in steps], steps),
    ):
        for name in names:
            rows = [
                row for history in histories for row in thinned([r for r in source[name] if r["run"] == history.name])
            ]
            group.charts.append(
                (_caption(name), curve(rows, runs, marks=marks, share=_is_share(name), from_zero=name in SPEED))
            )
    return [group for group in found if group.charts]


def _by_name(histories: list[History], kind: str) -> dict[str, list[Row]]:
    table: dict[str, list[Row]] = {}
    for history in histories:
        for step, name, value in history.numbers(kind):
            if name not in COUNTS:
                table.setdefault(name, []).append({"run": history.name, "step": step, "value": value})
    return table


def _evaluations(histories: list[History]) -> dict[str, list[Row]]:
    """R@1, MAP@R, NMI and the largest K; the tables hold the rest."""
    table: dict[str, list[Row]] = {}
    for history in histories:
        for event in history.of("eval"):
            place = {"run": history.name, "step": event["step"], "model": event["model"]}
            recall = event.get("recall", {})
            numbers = {f"recall@{k}": recall[k] for k in {min(recall, key=int), max(recall, key=int)}} if recall else {}
            numbers |= {name: event[name] for name in ("map_at_r", "nmi") if event.get(name) is not None}
            for name, value in numbers.items():
                table.setdefault(name, []).append(place | {"value": value})
    return table


def _evaluation_order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return ("recall", "map_at_r", "nmi").index(kind), int(k or 0)


def _caption(name: str) -> str:
    return CAPTIONS.get(name, name.replace("recall@", "R@").replace("_", " ").replace("loss ", ""))


def _is_share(name: str) -> bool:
    return any(part in name for part in SHARES)


def _marks(histories: list[History]) -> list[Row]:
    """Where phases begin and what befell the runs."""
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
