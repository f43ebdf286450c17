"""Train the settings of heads.yaml and blocks.yaml and keep the embeddings of each evaluation.
Finished runs are skipped.

    python -m benchmarks.verdict.runs --cache CACHE --weights bvlc_googlenet_fp16.safetensors --out RUNS --seeds 0 1

CACHE is what `benchmarks.verdict.crops` completed. Of each run a folder with record.json (recall and MAP@R of all
test images by step and network) and, by evaluation, STEP_NETWORK.npz: embeddings float16 of the held-out images'
evaluation views [n, D], random crops [2, n, D] and stronger crops [2, n, D], and which of all test queries hit [m].
"""

import argparse
import itertools
import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks.reproduction.cut import CUTS
from benchmarks.reproduction.experiment import Experiment
from benchmarks.reproduction.features import Features
from benchmarks.reproduction.run import commit
from dist_plm.cli import config_of, config_parser
from dist_plm.model.digest import digest

SETTINGS = Path(__file__).parent


class KeptExperiment(Experiment):
    """An experiment whose evaluations write the embeddings of held-out images into `folder`."""

    folder: Path
    held_out: np.ndarray
    draws: dict[str, np.ndarray]  # maps float16 [n, draws, C, h, w] by name

    def _judge(self, step: int, looks: list[dict[str, float]]) -> None:
        entry: dict[str, Any] = {"step": step}
        for name, network in (("student", self.learner.student), ("teacher", self.learner.teacher)):
            if name == "teacher" and step < self.config.train.max_steps:  # at the start a copy, half way between
                continue
            entry[name] = self._keep(network, f"{step:04d}_{name}") if step else self._start(network)
        self.course.append(entry)

    def _start(self, network: nn.Module) -> dict[str, float]:
        """The start, which runs of one head and seed share: embedded once, and linked."""
        kept = self.folder.parent / "starts" / digest(network)
        if not (kept / "numbers.json").exists():
            kept.mkdir(parents=True, exist_ok=True)
            numbers = self._keep(network, "0000_student")
            (self.folder / "0000_student.npz").replace(kept / "start.npz")
            (kept / "numbers.json").write_text(json.dumps(numbers))
        (self.folder / "0000_student.npz").unlink(missing_ok=True)
        (self.folder / "0000_student.npz").hardlink_to(kept / "start.npz")
        return json.loads((kept / "numbers.json").read_text())

    def _keep(self, network: nn.Module, name: str) -> dict[str, float]:
        test, labels = self._embedded(network, self.features.test), torch.from_numpy(self.features.test_labels)
        hits, precision = judged(test, labels)
        arrays = {"eval": test[torch.from_numpy(self.held_out)].numpy()}
        for kind, maps in self.draws.items():
            arrays[kind] = np.stack([self._embedded(network, maps[:, i]).numpy() for i in range(maps.shape[1])])
        halves = {kind: array.astype(np.float16) for kind, array in arrays.items()}
        np.savez(self.folder / f"{name}.npz", **halves, hits=hits.numpy())  # type: ignore[arg-type]
        return {"recall": hits.double().mean().item(), "map_at_r": precision}


def judged(z: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Hits at 1, bool [n], and MAP@R of embeddings z [n, D] among themselves, by one float32 product."""
    similarity, positives = z @ z.T, torch.bincount(labels)[labels] - 1
    near = similarity.fill_diagonal_(-2).topk(int(positives.max()), dim=1).indices
    relevant, rank = labels[near] == labels[:, None], torch.arange(1, near.shape[1] + 1)
    precision = (relevant.cumsum(1) / rank * (relevant & (rank <= positives[:, None]))).sum(1) / positives
    return relevant[:, 0], precision.mean().item()


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder that `crops` completed")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs' embeddings")
    parser.add_argument("--weights", required=True, help="those that `crops` read")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--settings", nargs="+", default=["heads", "blocks"], help="files here, without .yaml")
    parser.add_argument("--evaluate_every", type=int, default=58, help="steps between evaluations")
    parser.add_argument("--only", nargs="*", default=[], help="names of settings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed, file in itertools.product(options.seeds, options.settings):
        plan = yaml.safe_load((SETTINGS / f"{file}.yaml").read_text(encoding="utf-8"))
        for name, own in plan["settings"].items():
            folder = options.out / f"{file} {name} {seed}".replace(", ", "__").replace(" ", "_")
            if (not options.only or name in options.only) and not (folder / "record.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                record = {"file": file, "method": name.split(", ")[0], "setting": name, "options": own, "seed": seed}
                record |= one(f"{plan['base']} {own}", seed, options, folder)
                (folder / "record.json").write_text(json.dumps(record) + "\n")
                recalls = [
                    round(100 * each["recall"], 2) for e in record["course"] for each in e.values() if each != e["step"]
                ]
                print(file, name, seed, record["seconds"], recalls, flush=True)


def one(line: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by a line of options."""
    parser = config_parser("train", "")
    parser.add_argument("--cut", type=str, default="inception_5b", help=", ".join(CUTS))
    parser.add_argument("--on_test", type=bool, default=False, help="train on the test images, without their labels")
    parsed = parser.parse_args([*shlex.split(line), "--seed", str(seed), "--model.weights", options.weights])
    started, cache = time.monotonic(), options.cache
    features = Features.load(cache, parsed.cut)
    features = features.on_test() if parsed.on_test else features
    experiment = KeptExperiment(config_of(parser, parsed), features, parsed.cut, options.evaluate_every)
    experiment.folder, experiment.held_out = folder, np.load(cache / "held_out.npy")
    # The first two draws of crops are those that a run on the test images trains on.
    names = {"crops": "held_out_crops", "strong": "held_out_strong"}
    experiment.draws = {
        kind: np.load(cache / parsed.cut / f"{name}.npy", mmap_mode="r")[:, -2:] for kind, name in names.items()
    }
    course = experiment.run()
    return {"course": course, "commit": commit(), "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    main()
