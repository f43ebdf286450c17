"""Every predictor on the embeddings that `runs` kept: one line an evaluation, its change since the start of its run.

    python -m benchmarks.verdict.measure --runs RUNS --points benchmarks/verdict/points.jsonl

Predictors are those of `dist_plm.evaluation.label_free` on two random crops of 2,000 held-out images, `strong_...` of
the same on crops of 5 to 25 % of the image in other light, `few_...` on the first 300 images, and two that need no
crops: `mutual`, the share of neighbours that have each other, and `kept`, the share that are those of the start.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_plm.evaluation import label_free
from dist_plm.evaluation.intervals import bootstrap
from dist_plm.evaluation.label_free import Estimate, TwoViews, neighbours, overlap

FEW = 300
KINDS = (("crops", "", None), ("strong", "strong_", None), ("crops", "few_", FEW), ("strong", "few_strong_", FEW))
Pairs = dict[str, TwoViews]


def main() -> None:
    """Read the command line and append what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder that `runs` wrote")
    parser.add_argument("--points", type=Path, default=Path(__file__).parent / "points.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    label_free.nearest = fast_nearest  # type: ignore[assignment]
    lines = options.points.read_text().splitlines() if options.points.exists() else []
    known = {json.loads(line)["run"] for line in lines}
    for path in sorted(options.runs.glob("*/record.json")):
        if path.parent.name not in known:
            found = points(path.parent, json.loads(path.read_text()))
            with options.points.open("a") as file:
                file.writelines(json.dumps(point) + "\n" for point in found)
            print(path.parent.name, flush=True)


def points(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations of a run after its start."""
    told = {name: record[name] for name in ("file", "method", "setting", "seed", "commit")} | {"run": folder.name}
    judged = {
        (each["step"], name): each[name] for each in record["course"] for name in ("student", "teacher") if name in each
    }
    begin = np.load(folder / "0000_student.npz")
    found = []
    for (step, name), numbers in judged.items():
        if not step:
            continue
        now = np.load(folder / f"{step:04d}_{name}.npz")
        difference = bootstrap(now["hits"].astype(int) - begin["hits"])
        start = judged[0, "student"]
        truth = {"recall": numbers["recall"], "map_at_r": numbers["map_at_r"], "recall_start": start["recall"],
                 "map_start": start["map_at_r"], "recall_change": list(difference)}  # fmt: skip
        found.append(told | {"step": step, "model": name, **truth, **predictors(now, start_of(begin))})
    return found


def pairs(arrays: Any) -> Pairs:
    """Two random views of the held-out images by the prefix of their predictors."""
    return {
        prefix: TwoViews(*(torch.from_numpy(arrays[kind][i][:few]).float() for i in range(2)))
        for kind, prefix, few in KINDS
    }


def evaluation(arrays: Any) -> Tensor:
    """Embeddings of the evaluation views [n, D]."""
    return torch.from_numpy(arrays["eval"]).float()


def start_of(arrays: Any) -> dict[str, Any]:
    """What changes are measured from; runs that share their start share it."""
    key = arrays["eval"].tobytes()
    if key not in STARTS:
        STARTS[key] = pairs(arrays) | {"near": neighbours(evaluation(arrays))}
    return STARTS[key]


STARTS: dict[bytes, dict[str, Any]] = {}


def fast_nearest(queries: Tensor, gallery: Tensor, k: int, exclude: Tensor | None = None) -> tuple[np.ndarray, None]:
    """As dist_plm.index.nearest for vectors of unit length, by one float32 product: ties fall as they may."""
    similarity = queries @ gallery.T
    if exclude is not None:
        similarity[torch.arange(len(queries)), exclude] = -2
    return similarity.topk(k, dim=1).indices.numpy(), None


def predictors(now: Any, begin: dict[str, Any]) -> dict[str, Any]:
    """Values of an evaluation, and changes since the start as [change, standard error]."""
    values: dict[str, float] = {}
    changes: dict[str, Estimate] = {}
    for prefix, pair in pairs(now).items():
        values |= {prefix + name: each.value for name, each in pair.statistics().items()}
        changes |= {prefix + name: each for name, each in pair.change_since(begin[prefix]).items()}
    near, before = neighbours(evaluation(now)), begin["near"]
    values["mutual"], values["kept"] = float(mutual(near).mean()), float(overlap(near, before).mean())
    changes["mutual"] = mean(mutual(near) - mutual(before))
    changes["kept"] = mean(overlap(near, before) - 1)
    return {
        "values": {name: float(f"{value:.5g}") for name, value in values.items()},
        "changes": {name: [float(f"{number:.4g}") for number in each] for name, each in changes.items()},
    }


def mutual(near: Tensor) -> Tensor:
    """Share of the neighbours [n, k] of each row that have it among theirs, float64 [n]."""
    return (near[near] == torch.arange(len(near))[:, None, None]).any(2).double().mean(1)


def mean(values: Tensor) -> Estimate:
    """Mean and its standard error."""
    return Estimate(float(values.mean()), float(values.std()) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
