"""Run named settings and append a JSON line for each seed; what has its line already is not run again.

    python -m benchmarks.reproduction.run --cache CACHE --weights bvlc_googlenet_fp16.safetensors \
        --settings benchmarks/reproduction/screen.yaml --seeds 0 1 2

A file of settings holds `base`, options of `python -m dist_plm.train` that all share, and `settings`, a name and XX
"""

import argparse
import json
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.reproduction.cut import CUTS
from benchmarks.reproduction.experiment import Experiment
from benchmarks.reproduction.features import Features
from benchmarks.reproduction.oracle import CHANGES
from benchmarks.reproduction.stml_readings import READINGS
from dist_plm.cli import config_of, config_parser

RESULTS = Path(__file__).parent / "results.jsonl"


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder that `features` wrote")
    parser.add_argument("--settings", type=Path, nargs="+", required=True, help="YAML files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="*", default=[], help="names of settings")
    parser.add_argument("--weights", default="", help="those that `features` read; the head alone needs none")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for file in options.settings:
        plan = yaml.safe_load(file.read_text(encoding="utf-8"))
        for name, own in plan["settings"].items():
            for seed in options.seeds:
                line = " ".join(f"{plan['base']} {own or ''}".split())
                record = {"stage": file.stem, "setting": name, "options": own or "", "seed": seed, "line": line}
                if (not options.only or name in options.only) and not done(options.results, record):
                    append(options.results, record | one(line, seed, options))


def one(line: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train by a line of options; what is worth keeping of it."""
    parser = config_parser("train", "")
    parser.add_argument("--cut", type=str, default="inception_5b", help=", ".join(CUTS))
    parser.add_argument("--evaluate_every", type=int, default=58)
    parser.add_argument("--with_batch_norm", type=bool, default=False, help="behind each convolution that is trained")
    parser.add_argument("--on_test", type=bool, default=False, help="train on the test images, without their labels")
    parser.add_argument("--change", type=str, default="", help=", ".join(CHANGES[1:]) + ": see oracle.py")
    parser.add_argument("--class_groups", type=bool, default=False, help="groups of one class, by the true labels")
    parser.add_argument("--readings", type=list[str], default=[], help=", ".join(READINGS) + ": see stml_readings.py")
    parsed = parser.parse_args([*shlex.split(line), "--seed", str(seed), "--model.weights", options.weights])
    if parsed.cut != "head" and not options.weights:
        raise SystemExit(f"--cut {parsed.cut} trains blocks of the network: name their weights with --weights")
    started = time.monotonic()
    features = Features.load(options.cache, parsed.cut)
    features = features.on_test() if parsed.on_test else features
    experiment = Experiment(
        config_of(parser, parsed), features, parsed.cut, parsed.evaluate_every, parsed.with_batch_norm,
        parsed.change, parsed.class_groups, tuple(parsed.readings),
    )  # fmt: skip
    course = experiment.run()
    return {"steps": course[-1]["step"], "cut": parsed.cut, "course": course, "commit": commit(),
            "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def done(results: Path, record: dict[str, Any]) -> bool:
    """Whether there is a line of this stage, name, options and seed."""
    return any(record.items() <= found.items() for found in read(results))


def read(results: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def append(results: Path, record: dict[str, Any]) -> None:
    """Add a line, and say it in short."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    ends = {
        f"{name} {metric}": [entry[name][metric] for entry in record["course"]]
        for name in ("student", "teacher")
        for metric in ("1", "map_at_r")
    }
    print(f"{record['setting']:24} seed {record['seed']}  {record['seconds']:5.0f} s  {ends}", flush=True)


def commit() -> str:
    """Short hash of HEAD, with + where the working tree differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True
        ).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")


if __name__ == "__main__":
    main()
