"""EfficientNet-Lite0 on CUB-200 at 160 px, 2 ranks: the head on cached views, the last blocks, all of it. Markdown.

    python -m benchmarks.trainable --shards data/cub200 --weights tf_efficientnet_lite0_fp16.safetensors --runs RUNS

Every run is `torchrun --nproc_per_node 2 -m dist_plm.train` in a folder of its own below RUNS; one that was stopped is
resumed, one that has ended is only read. The table holds what has ended; `--table` starts nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import machine

BASE = (
    "--config configs/cub200_best.yaml --data.workers 1 --views.size 160 --views.resize 182 --model.pooling avg "
    "--model.backbone timm/tf_efficientnet_lite0 --train.report false --runtime.threads 1 --train.log_steps 10 "
    "--checkpoint.every_steps 40 --checkpoint.keep 1 --evaluation.nmi false --runtime.device cpu "
    "--train.evaluate_epochs 1000 --optimiser.backbone_lr_scale 0.2"
)
PARTS = {
    "head, 4 cached views": "--model.trainable head --views.cached 4",
    "last 2 blocks": "--model.trainable blocks:2",
    "all": "--model.trainable all",
}
METHODS = {
    "PLM": "--train.method plm",
    "two views": "--train.method instance --warm_up.temperature 0.1",
    "STML": "--train.method stml --model.wide_dim 1024 --batch.groups 25 --batch.group_size 4",
}
Result = dict[str, Any]


def main() -> None:
    """Run what is missing, the cheapest first, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True, help="CUB-200, made by dist_plm")
    parser.add_argument("--weights", required=True, help="of EfficientNet-Lite0 under timm's names")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=58, help="of each run; an epoch has 58")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args()
    names = [(part, method) for part in PARTS for method in METHODS]  # the cheapest first
    if not options.table:
        for part, method in names:
            for seed in options.seeds:
                _train(part, method, seed, options)
    _print(names, options)


def _run(part: str, method: str, seed: int, options: argparse.Namespace) -> Path:
    name = f"{method}_{part}_{options.steps}_{seed}"
    return options.runs / "".join(each if each.isalnum() else "_" for each in name)


def _train(part: str, method: str, seed: int, options: argparse.Namespace) -> None:
    run = _run(part, method, seed, options)
    if _result(run):
        return
    arguments = [
        *BASE.split(), *PARTS[part].split(), *METHODS[method].split(), "--data.shards", options.shards,
        "--model.weights", options.weights, "--run_dir", str(run), "--seed", str(seed), "--data.cache_dir",
        str(options.runs / "cache"), "--train.max_steps", str(options.steps), "--train.epochs",
        str(-(-options.steps // 58)),
    ]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    print(f"{run.name} ...", file=sys.stderr, flush=True)
    subprocess.run([*launcher, "-m", "dist_plm.train", *arguments], check=False)


def _result(run: Path) -> Result | None:
    """Evaluations by (when, network), images a second and memory of a run that has ended; None of any other."""
    path = run / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not any(event["event"] == "end" for event in events):
        return None
    found: Result = {}
    for event in events:
        if event["event"] == "eval":
            when = "start" if event["when"] == "start" else "end"
            found[f"{when} {event['model']}"] = (100 * event["recall"]["1"], 100 * event["map_at_r"])
    steps = [event for event in events if event["event"] == "step"]
    found["rate"] = statistics.median(event["images_per_second"] for event in steps)
    found["memory"] = max(event.get("memory_gb", 0.0) for event in steps)
    return found


def _print(names: list[tuple[str, str]], options: argparse.Namespace) -> None:
    print(f"`python -m benchmarks.trainable` on {machine()}, {options.steps} steps\n")
    print("| method | trained | seeds | frozen | start | student | teacher | images/s | GB a rank |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for part, method in names:
        found = [each for seed in options.seeds if (each := _result(_run(part, method, seed, options)))]
        if not found:
            continue
        cells = [
            _cell([each[key] for each in found])
            for key in ("start frozen", "start student", "end student", "end teacher")
        ]
        rate = statistics.median(each["rate"] for each in found)
        memory = max(each["memory"] for each in found)
        print(f"| {method} | {part} | {len(found)} | {' | '.join(cells)} | {rate:,.1f} | {memory:.2f} |")


def _cell(values: list[tuple[float, float]]) -> str:
    """Mean R@1 / MAP@R, and the deviation of R@1 over the seeds."""
    recalls = [recall for recall, _ in values]
    spread = f" +- {statistics.stdev(recalls):.2f}" if len(recalls) > 1 else ""
    return f"{statistics.mean(recalls):.2f}{spread} / {statistics.mean(precision for _, precision in values):.2f}"


if __name__ == "__main__":
    main()
