"""`python -m benchmarks.verdict.table`: how well each predictor tells recall, and the verdict's hits and misses.

It reads points.jsonl, which `measure` wrote. Rank correlations are Spearman's over the evaluations of all runs after
their start, with a 95 % interval by a bootstrap over runs.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dist_plm.evaluation.intervals import Interval
from dist_plm.evaluation.label_free import Estimate
from dist_plm.evaluation.verdict import word_of_recall, word_of_views

Point = dict[str, Any]
POINTS = Path(__file__).parent / "points.jsonl"
CHOSEN_ON = ("plm", "relative", "two views", "clusters")  # methods whose runs chose the rule; the others test it
DRAWS = 500


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=POINTS)
    points = [json.loads(line) for line in parser.parse_args().points.read_text().splitlines()]
    runs = len({point["run"] for point in points})
    print(f"{len(points)} evaluations after the start of {runs} runs\n")
    predictors(points)
    for title, chosen in (("that chose the rule", True), ("that did not", False)):
        verdicts([p for p in points if (p["method"] in CHOSEN_ON) == chosen], f"runs {title}")


def predictors(points: list[Point]) -> None:
    """A row a predictor: correlations, agreement of signs, and noise."""
    print("| predictor | change with change of R@1 | with that of MAP@R | value with R@1 | same sign | noise |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    recall = np.array([p["recall_change"][0] for p in points])
    precision = np.array([p["map_at_r"] - p["map_start"] for p in points])
    sure = np.array([p["recall_change"][1] > 0 or p["recall_change"][2] < 0 for p in points])
    rows = []
    for name in points[0]["changes"]:
        change, error = np.array([p["changes"][name] for p in points]).T
        value = np.array([p["values"][name] for p in points])
        sign = np.mean(np.sign(change[sure]) == np.sign(recall[sure])) * 100
        first = correlation(change, recall, points)
        cells = [text(first), text(correlation(change, precision, points))]
        cells += [text(correlation(value, np.array([p["recall"] for p in points]), points))]
        rows.append((-abs(first[0]), name, [*cells, f"{sign:.0f} %", f"{np.median(error) / np.std(change):.2f}"]))
    for _, name, cells in sorted(rows):
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    print(f"\nsame sign: of {sure.sum()} evaluations whose R@1 differs from the start's beyond its 95 % interval\n")


def correlation(one: np.ndarray, other: np.ndarray, points: list[Point]) -> tuple[float, float, float]:
    """Spearman's, with the ends of its 95 % interval by a bootstrap over runs."""
    names = np.array([point["run"] for point in points])
    rows = [np.flatnonzero(names == name) for name in dict.fromkeys(names)]
    draw, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        taken = np.concatenate([rows[i] for i in draw.integers(0, len(rows), len(rows))])
        found.append(spearman(one[taken], other[taken]))
    return spearman(one, other), *np.nanquantile(found, (0.025, 0.975))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of ranks, ties at their mean rank."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean rank of each value."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def text(found: tuple[float, float, float]) -> str:
    """For the table."""
    value, low, high = found
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def verdicts(points: list[Point], title: str) -> None:
    """Words without labels against words by the paired difference of recall."""
    for few, of in (("", "2,000 images"), ("few_", "300 images")):
        counts = Counter((told(p, few), word_of_recall(Interval(*p["recall_change"]))) for p in points)
        rows = list(dict.fromkeys(word for word, _ in counts))
        print(f"{title}, {len(points)} evaluations, verdict on {of}\n")
        print("| verdict | truly better | no difference or can't tell | truly worse |\n| --- | ---: | ---: | ---: |")
        for word in rows:
            level = counts[word, "no difference"] + counts[word, "can't tell"]
            print(f"| {word} | {counts[word, 'better']} | {level} | {counts[word, 'worse']} |")
        print()


def told(point: Point, prefix: str) -> str:
    """The verdict without labels."""
    changes = {name.removeprefix(prefix): Estimate(*change) for name, change in point["changes"].items()
               if name.startswith(prefix)}  # fmt: skip
    return word_of_views(changes)


if __name__ == "__main__":
    main()
