"""`python -m benchmarks.verdict.table`: how well each predictor tells recall, and the verdict's hits and misses.

It reads points.jsonl, which `measure` wrote. Rank correlations are Spearman's over the evaluations of all runs after
their start, with a 95 % interval by a bootstrap over runs.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dist_plm.evaluation.label_free import STRONG_RECALL, Estimate
from dist_plm.evaluation.verdict import Word, word_of_views

Point = dict[str, Any]
POINTS = Path(__file__).parent / "points.jsonl"
CHOSE = 17  # the rule was fixed when the first runs of the file were measured; the others test it
DRAWS = 500


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=POINTS)
    points = [json.loads(line) for line in parser.parse_args().points.read_text().splitlines()]
    runs = len({point["run"] for point in points})
    print(f"{len(points)} evaluations after the start of {runs} runs\n")
    predictors(points)
    names = list(dict.fromkeys(point["run"] for point in points))
    for title, chosen in (("seen when the rule was chosen", names[:CHOSE]), ("measured afterwards", names[CHOSE:])):
        verdicts([point for point in points if point["run"] in chosen], f"{len(chosen)} runs {title}")


def predictors(points: list[Point]) -> None:
    """A row a predictor: correlations, agreement of signs, and noise."""
    print("| predictor | change with change of R@1 | change with that of MAP@R | value with R@1 | same sign | noise |")
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
    print(f"\nsame sign: share of the {sure.sum()} evaluations with a significant change of R@1 (95 %)\n")


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
    """Words without labels against the paired difference of recall."""
    for prefix, of in (("", "2,000 images"), ("few_", "300 images")):
        counts = Counter((told(point, prefix), truth(point)) for point in points)
        print(f"{title}, {len(points)} evaluations, {of}:\n")
        print(f"| verdict | {' | '.join(TRUTHS)} |\n| --- | ---: | ---: | ---: | ---: |")
        for word in get_args(Word):
            print(f"| {word} | {' | '.join(str(counts[word, truth]) for truth in TRUTHS)} |")
        print()


TRUTHS = ("R@1 higher, 95 %", "higher, within noise", "lower, within noise", "lower, 95 %")


def truth(point: Point) -> str:
    """Where the paired difference of R@1 on all test queries lies."""
    value, low, high = point["recall_change"]
    if low > 0 or high < 0:
        return TRUTHS[0 if low > 0 else 3]
    return TRUTHS[1 if value > 0 else 2]


def told(point: Point, prefix: str) -> Word:
    """The verdict without labels."""
    names = {"view_recall": "view_recall", STRONG_RECALL: "strong_view_recall", "agreement": "agreement"}
    return word_of_views({name: Estimate(*point["changes"][prefix + own]) for name, own in names.items()})


if __name__ == "__main__":
    main()
