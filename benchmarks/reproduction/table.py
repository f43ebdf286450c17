"""`python -m benchmarks.reproduction.table`: the results in Markdown, mean and sample standard deviation over seeds."""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.reproduction.run import RESULTS, read

Record = dict[str, Any]
STATISTICS = {"mean_pair_distance": "distance", "positives_attracted": "positives attracted",
              "negatives_attracted": "negatives attracted", "neighbourhood_size": "size of X_i",
              "same_label": "same label", "same_label_control": "control"}  # fmt: skip
HEAD = ["setting", "options", "cut", "steps", "seeds", "start", "student", "teacher", "best", "student R@8",
        "student MAP@R"]  # fmt: skip


def main() -> None:
    """Print the table, best last student first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--stage", nargs="*", default=[], help="files of settings, without .yaml")
    parser.add_argument("--order", choices=("student", "file"), default="file")
    parser.add_argument("--statistics", action="store_true", help="means between the last two evaluations")
    options = parser.parse_args()
    groups = grouped(read(options.results), options.stage)
    if options.order == "student":
        groups.sort(key=lambda lines: -fmean(line["course"][-1]["student"]["1"] for line in lines))
    head = HEAD + [*STATISTICS.values()] * options.statistics
    print("| " + " | ".join(head) + " |\n" + "| " + " | ".join(["---", "---", *["---:"] * (len(head) - 2)]) + " |")
    for lines in groups:
        print("| " + " | ".join(cells(lines, options.statistics)) + " |")


def grouped(records: list[Record], stages: list[str]) -> list[list[Record]]:
    """Records that differ in their seed alone, in the order of the file."""
    found: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        if not stages or record["stage"] in stages:
            found[record["stage"], record["setting"], record["line"]].append(record)
    return list(found.values())


def cells(lines: list[Record], statistics: bool) -> list[str]:
    """The row of a setting. Its best is of either network at any evaluation after the start: chosen on the test set."""
    courses = [line["course"] for line in lines]
    own = lines[0]["options"]
    best = [max((e[name]["1"] for e in c[1:] for name in ("student", "teacher")), default=c[0]["student"]["1"])
            for c in courses]  # fmt: skip
    row = [lines[0]["setting"], f"`{own}`" if own else "", lines[0]["cut"], str(lines[0]["steps"]), str(len(lines))]
    row += [spread([c[0]["student"]["1"] for c in courses])]
    row += [spread([c[-1][name]["1"] for c in courses]) for name in ("student", "teacher")]
    row += [spread(best), spread([c[-1]["student"]["8"] for c in courses])]
    precision = [c[-1]["student"]["map_at_r"] for c in courses if "map_at_r" in c[-1]["student"]]
    row.append(spread(precision) if precision else "")
    for name in STATISTICS if statistics else ():
        known = [c[-1]["statistics"][name] for c in courses if name in c[-1]["statistics"]]
        row.append(f"{fmean(known):.3f}" if known else "")
    return row


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
