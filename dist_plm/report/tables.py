"""Numbers of a run: tiles, tables, and settings that differ between runs."""

from dataclasses import asdict

from dist_plm.config import flat
from dist_plm.report.curves import LABEL_FREE, LABEL_FREE_SHARES
from dist_plm.report.history import Event, History


def tiles(history: History) -> list[tuple[str, str, str]]:
    """(title, value, remark) of the tiles of a run."""
    if not history.trained:
        return [(f"R@{k} {event['model']}", f"{100 * share:.1f} %", f"MAP@R {100 * event['map_at_r']:.1f} %")
                for event in history.of("eval") for k, share in [next(iter(event["recall"].items()))]]  # fmt: skip
    verdicts = {event["model"]: event for event in history.of("verdict")}
    shown = [tile for model in ("student", "teacher") for tile in _judged(history, model, verdicts.get(model))]
    steps = history.of("step")
    shown.append(("steps", f"{history.last_step:,}", _ending(history)))
    if steps:
        rates = sorted(event["images_per_second"] for event in steps)
        waiting = sum(event["wait_share"] for event in steps) / len(steps)
        shown.append(("images per second", f"{rates[len(rates) // 2]:,.0f}", f"median; {100 * waiting:.1f} % waiting"))
    return shown


def _judged(history: History, model: str, verdict: Event | None) -> list[tuple[str, str, str]]:
    """The tile of a network: its recall with its interval, or its verdict where there are no labels."""
    known = [event for event in history.of("eval") if event["model"] == model and event.get("recall")]
    if not known:
        if verdict is None:
            return []
        return [(f"{model}, without labels", verdict["verdict"], verdict["text"])]
    recalls, last = [event["recall"] for event in known], known[-1]
    k = min(last["recall"], key=int)
    values = [100 * recall[k] for recall in recalls if k in recall]
    remarks = []
    if interval := last.get("interval"):
        remarks.append(f"95 % from {100 * interval['low']:.1f} to {100 * interval['high']:.1f}")
    if verdict and verdict["basis"] == "labels":
        remarks.append(verdict["text"])
    else:
        remarks.append(f"{values[-1] - values[0]:+.1f} points since the start" if len(values) > 1 else "one evaluation")
        base = [event["recall"] for event in history.of("eval") if event["model"] == "frozen" and event.get("recall")]
        if base and k in base[0]:
            remarks.append(f"{values[-1] - 100 * base[0][k]:+.1f} relative to the frozen features")
    return [(f"R@{k} {model}", f"{values[-1]:.1f} %", "; ".join(remarks))]


def label_free(history: History) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of what is known without labels: at the start, and now by each network."""
    start = next((event for event in history.of("label_free") if event.get("when") == "start"), None)
    last = {event["model"]: event for event in history.of("label_free") if event.get("when") != "start"}
    if start is None:
        return [], []
    head = ["", "start", *(name for model in last for name in (model, "change"))]
    rows = []
    for name in [name for name in LABEL_FREE if name in start["values"]]:
        caption = LABEL_FREE[name]
        scale, digits, unit = (100, 1, " %") if name in LABEL_FREE_SHARES else (1, 2, "")
        row = [caption, f"{scale * start['values'][name]:.{digits}f}{unit}"]
        for event in last.values():
            row.append(f"{scale * event['values'][name]:.{digits}f}{unit}")
            change, error = (event.get(part, {}).get(name) for part in ("changes", "changes_error"))
            row.append("" if change is None else f"{scale * change:+.{digits}f} ± {scale * error:.{digits}f}")
        rows.append(row)
    return head, rows


def evaluations(history: History) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of all evaluations, in %."""
    events = history.of("eval")
    ks = sorted({k for event in events for k in event.get("recall", {})}, key=int)
    head = ["step", "when", "network", *(f"R@{k}" for k in ks), "MAP@R", "NMI"]
    rows = [
        [
            f"{event['step']:,}",
            event.get("when", ""),
            event["model"],
            *(_percent(event.get("recall", {}).get(k)) for k in ks),
            _percent(event.get("map_at_r")),
            _percent(event.get("nmi")),
        ]
        for event in events
    ]
    filled = [column for column in range(len(head)) if column < 3 or any(row[column] for row in rows)]
    return [head[column] for column in filled], [[row[column] for column in filled] for row in rows]


def differences(histories: list[History]) -> list[tuple[str, list[str]]]:
    """(key, value in each run) of the settings that differ, except the run directory."""
    settings = [flat(asdict(history.config)) for history in histories]
    return [
        (key, [str(values.get(key, "")) for values in settings])
        for key in settings[0]
        if key != "run_dir" and len({str(values.get(key, "")) for values in settings}) > 1
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _ending(history: History) -> str:
    last: Event = next((event for event in reversed(history.events) if event.get("event") in ENDINGS), {})
    restarts = len(history.of("resumed"))
    text = ENDINGS.get(last.get("event", ""), RUNNING)
    return f"{text}, {restarts} restart{'s' * (restarts != 1)}"


RUNNING = "in progress"
ENDINGS = {"end": "finished", "failure": "failed", "preempted": "preempted", "resumed": RUNNING, "step": RUNNING}
