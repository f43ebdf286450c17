"""A run in numbers: tiles, tables, and the settings in which runs differ."""

from dataclasses import asdict

from dist_plm.config import flat
from dist_plm.report.history import Event, History


def tiles(history: History) -> list[tuple[str, str, str]]:
    """(what, value, remark) at the head of a run."""
    if not history.trained:
        return [(f"R@{k} {event['model']}", f"{100 * share:.1f} %", f"MAP@R {100 * event['map_at_r']:.1f} %")
                for event in history.of("eval") for k, share in [next(iter(event["recall"].items()))]]  # fmt: skip
    found = []
    for model in ("student", "teacher"):
        recalls = [event["recall"] for event in history.of("eval") if event["model"] == model and event.get("recall")]
        if not recalls:
            continue
        k = min(recalls[-1], key=int)
        known = [100 * recall[k] for recall in recalls if k in recall]
        remark = f"{known[-1] - known[0]:+.1f} points since the start" if len(known) > 1 else "one evaluation"
        base = [event["recall"] for event in history.of("eval") if event["model"] == "frozen" and event.get("recall")]
        if base and k in base[0]:
            remark += f", {known[-1] - 100 * base[0][k]:+.1f} to the frozen features"
        found.append((f"R@{k} {model}", f"{known[-1]:.1f} %", remark))
    steps = history.of("step")
    found.append(("steps", f"{history.last_step:,}", _ending(history)))
    if steps:
        rates = sorted(event["images_per_second"] for event in steps)
        waiting = sum(event["wait_share"] for event in steps) / len(steps)
        found.append(("images a second", f"{rates[len(rates) // 2]:,.0f}", f"median; {100 * waiting:.1f} % waiting"))
    return found


def evaluations(history: History) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of all evaluations, in %."""
    events = history.of("eval")
    ks = sorted({k for event in events for k in event.get("recall", {})}, key=int)
    head = ["step", "when", "network", *(f"R@{k}" for k in ks), "MAP@R", "NMI"]
    return head, [
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


def differences(histories: list[History]) -> list[tuple[str, list[str]]]:
    """(key, value in each run) of the settings in which the runs differ, but where they lie."""
    settings = [flat(asdict(history.config)) for history in histories]
    return [
        (key, [str(each.get(key, "")) for each in settings])
        for key in settings[0]
        if key != "run_dir" and len({str(each.get(key, "")) for each in settings}) > 1
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _ending(history: History) -> str:
    last: Event = next((event for event in reversed(history.events) if event["event"] in ENDINGS), {})
    restarts = len(history.of("resumed"))
    text = ENDINGS.get(last.get("event", ""), "under way")
    return f"{text}, {restarts} restart{'s' * (restarts != 1)}"


ENDINGS = {"end": "finished", "failure": "failed", "preempted": "stopped", "resumed": "under way", "step": "under way"}
