"""Whether a trained network is better than the network before training, as a verdict and a sentence with the numbers.

With labels it is decided by the paired difference of recall@1; without labels by view recall, and by the agreement of
the neighbours of two random views. docs/verdict.md has its measured accuracy.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dist_plm.evaluation.intervals import Interval, bootstrap
from dist_plm.evaluation.label_free import STRONG_RECALL, Estimate
from dist_plm.telemetry import events

Word = Literal["better", "no difference", "worse", "can't tell"]
# Half-width of an interval around 0 up to which the verdict is "no difference"; for wider ones it is "can't tell".
NARROW = 0.01  # of recall@1
Z = 1.96  # standard errors of a two-sided 95 % interval


@dataclass(frozen=True)
class Verdict:
    """A network compared with the start of its run.

    Attributes:
        model: student or teacher.
        step: Step of the network.
        word: Result of the comparison with the start.
        basis: Labels of the test split, or random views of held-out images.
        text: A sentence with the numbers, without the name of the network.
    """

    model: str
    step: int
    word: Word
    basis: Literal["labels", "views"]
    text: str


SAYS: dict[Word, str] = {
    "better": "better than the start",
    "no difference": "no different from the start",
    "worse": "LOWER than the start",
    "can't tell": "not distinguishable from the start",
}


def recall_verdict(
    model: str, step: int, hits: np.ndarray, start: np.ndarray, baselines: dict[str, np.ndarray] | None = None
) -> Verdict:
    """Compare by labels.

    Args:
        hits: int8 [Q], hits of the network, see `Evaluation.hits`.
        start: int8 [Q], hits of the network before the first step.
        baselines: int8 [Q] each, hits of baselines without training, by display name.
    """
    change = paired(hits, start)
    word = word_of_recall(change)
    text = f"{SAYS[word]}: R@1 {_points(change)}"
    for name, baseline_hits in (baselines or {}).items():
        over = paired(hits, baseline_hits)
        text += f"; {'LOWER than' if over.high < 0 else 'against'} {name} {_points(over)}"
    return Verdict(model, step, word, "labels", f"{text}; {int((hits >= 0).sum()):,} queries")


def view_verdict(
    model: str, step: int, changes: dict[str, Estimate], statistics: dict[str, Estimate], moved: float
) -> Verdict:
    """Compare without labels.

    Args:
        changes: From `HeldOutViews.change_since`.
        statistics: From `HeldOutViews.statistics` of the network.
        moved: Share of the neighbours that differ from those at the start.
    """
    word = word_of_views(changes)
    said = {"view_recall": "view recall", STRONG_RECALL: "strong view recall", "agreement": "neighbour agreement"}
    numbers = [f"{what} {_percent(statistics[name], changes[name])}" for name, what in said.items()]
    claim = "can't tell whether it is better than the start" if word == "can't tell" else SAYS[word]
    text = f"{claim}, without labels: {', '.join(numbers)}, {100 * moved:.0f} % of neighbours changed"
    return Verdict(model, step, word, "views", text)


def paired(hits: np.ndarray, others: np.ndarray) -> Interval:
    """Mean paired difference of two hit vectors int8 [Q] of 1, 0 and -1, over the queries without -1 in either."""
    counts = (hits >= 0) & (others >= 0)
    return bootstrap(hits[counts].astype(np.int64) - others[counts])


def word_of_recall(difference: Interval) -> Word:
    """Verdict by the paired difference of recall@1 from the start."""
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "no difference" if difference.high - difference.low <= 2 * NARROW else "can't tell"


def word_of_views(changes: dict[str, Estimate]) -> Word:
    """Verdict by the changes of `HeldOutViews.change_since`.

    View recall, averaged over random and strong views, predicts recall@1 best; agreement of neighbours predicts MAP@R
    best. If they change in opposite directions, or only agreement changes, the verdict is "can't tell".
    """
    one, other, agreement = (changes[name] for name in ("view_recall", STRONG_RECALL, "agreement"))
    recall = _direction(Estimate((one.value + other.value) / 2, math.hypot(one.error, other.error) / 2))
    if not recall:
        return "can't tell" if _direction(agreement) else "no difference"
    if _direction(agreement) == -recall:
        return "can't tell"
    return "better" if recall > 0 else "worse"


def _direction(change: Estimate) -> int:
    """1 or -1 for a change beyond Z standard errors, else 0."""
    return int(change.value > Z * change.error) - int(change.value < -Z * change.error)


def _percent(now: Estimate, change: Estimate) -> str:
    return f"{100 * now.value:.1f} % ({100 * change.value:+.1f} ± {100 * change.error:.1f})"


def _points(difference: Interval) -> str:
    value, low, high = (f"{100 * value:+.1f}" for value in difference)
    return f"{value} points (95 % {low} to {high})"


def read_verdicts(run: Path) -> dict[str, Verdict]:
    """The latest verdict on each network of a run directory, by its name; empty if there is none.

    A run that was only evaluated at its start, or trained by an older version, has none.
    """
    verdicts: dict[str, Verdict] = {}
    for event in events.read(run, "verdict"):
        try:
            verdict = Verdict(event["model"], event["step"], event["verdict"], event["basis"], event["text"])
        except KeyError:  # the file is untrusted
            continue
        if verdict.word in get_args(Word):
            verdicts[verdict.model] = verdict
    return verdicts
