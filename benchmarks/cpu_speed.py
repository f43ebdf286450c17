"""Speed on a CPU of two checkouts, in turns: training steps, embed, evaluation, and the network alone.

    git worktree add --detach /tmp/before 579f7dc
    python -m benchmarks.cpu_speed --before /tmp/before --shards data/cub200 --weights bvlc_googlenet.caffemodel

Commands run as users run them, each at two sizes: the difference leaves out imports and start-up. Images a CPU second
(user and system time of all processes) hold on a machine with other load; images a second of wall time do not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SIZES = (64, 448)  # images of the small and the large data set
STEPS = (1, 4)
VIEWS = ("--views.size", "112", "--views.resize", "128")
ALONE = """
import sys, time
try:
    from dist_plm.distributed.process import prepare_process
    prepare_process()
except ImportError:
    pass
import torch
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
torch.set_num_threads(1)
net = BvlcGooglenet().to(memory_format=torch.channels_last)
views, seconds = torch.zeros(100, 3, 112, 112, dtype=torch.uint8), []
for _ in range(4):
    began = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=sys.argv[1] == "bf16"):
        with torch.set_grad_enabled(sys.argv[2] == "step"):
            maps = net(views)
    if sys.argv[2] == "step":
        maps.float().mean().backward()
    seconds.append(time.process_time() - began)
print(len(views) / min(seconds[1:]))
"""


@dataclass(frozen=True)
class Cost:
    """Of a command: CPU seconds of all its processes, wall time in seconds, peak memory of one process in bytes."""

    cpu: float
    wall: float
    memory: int

    def rates(self, smaller: "Cost", more: int) -> tuple[float, float]:
        """Per CPU second and per second of wall time, of `more` images beyond those of a smaller run."""
        return more / max(self.cpu - smaller.cpu, 1e-3), more / max(self.wall - smaller.wall, 1e-3)


def run(tree: Path, *line: object) -> Cost:
    """Run a command in a checkout. Raises RuntimeError with its output where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, line)], cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr
    errors = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)  # also of the ranks that it waited for
    if status:
        raise RuntimeError(f"{line} in {tree}: {errors[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss * 1024)


def train(
    tree: Path, options: argparse.Namespace, folder: Path, ranks: int, steps: int, precision: str = "auto"
) -> Cost:
    """The first steps of configs/cub200_best.yaml at 112 px without sweep and evaluation, 100 images each."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks) if ranks > 1 else ()
    arithmetic = () if tree == options.before else ("--train.precision", precision)  # before there was fp32 alone
    return run(
        tree, *start, "-m", "dist_plm.train", "--config", "configs/cub200_best.yaml", "--run_dir", folder / "run",
        "--data.shards", options.shards.resolve(), "--data.test_split", "", "--data.workers", 1, *VIEWS,
        "--model.weights", options.weights.resolve(), "--model.head_start", "orthogonal", "--train.report", "false",
        "--checkpoint.keep_best", "none", "--train.max_steps", steps, *arithmetic,
    )  # fmt: skip


def embed(tree: Path, folder: Path, images: int) -> Cost:
    """Of a folder of so many images."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    return run(
        tree, "-m", "dist_plm.embed", "--checkpoint", folder / f"{tree.name}_run", "--images",
        folder / f"images{images}" / "test", "--out", folder / "index",
    )  # fmt: skip


def evaluate(tree: Path, folder: Path, images: int) -> Cost:
    """Student and momentum encoder on so many images: the sweep's own code, twice."""
    where = ("--shards", folder / f"shards{images}", "--split", "test")
    return run(tree, "-m", "dist_plm.evaluate", "--checkpoint", folder / f"{tree.name}_run", *where)


def prepare(options: argparse.Namespace, trees: dict[str, Path], folder: Path) -> None:
    """Two small data sets, as files and as shards, and a run of each checkout."""
    from dist_plm.data.store import Store

    with Store(options.shards, "test") as store:
        by_label = sorted(range(len(store)), key=lambda id: (int(store.labels[id]), id))
        for images in SIZES:
            for number, id in enumerate(islice(by_label, images)):
                for split in ("train", "test"):
                    file = folder / f"images{images}" / split / str(store.labels[id]) / f"{number:05d}.jpg"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(store.read(id))
            build = ("shards/build.py", "folder", "--workers", 1, "--source", folder / f"images{images}")
            run(options.before, *build, "--out", folder / f"shards{images}")
    for tree in trees.values():
        train(tree, options, folder, 1, 1)
        (folder / "run").rename(folder / f"{tree.name}_run")


def alone(tree: Path, precision: str, what: str) -> float:
    """Views a CPU second of the network on one thread, forward (`forward`) or with backward (`step`)."""
    line = [sys.executable, "-c", ALONE, precision, what]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return float(subprocess.run(line, cwd=tree, env=environment, check=True, capture_output=True).stdout)


def measure(options: argparse.Namespace, tree: Path, folder: Path) -> dict[str, float]:
    """All numbers of one checkout, once."""
    found = {}
    for precision in ("fp32", "bf16"):
        for what, name in (("step", "forward + backward"), ("forward", "forward")):
            found[f"network {precision}, {name}: views / CPU s"] = alone(tree, precision, what)
    for ranks, precision in product((1, 2), ("auto", "fp32")):
        few, many = (train(tree, options, folder, ranks, steps, precision) for steps in STEPS)
        cpu, wall = many.rates(few, 100 * (STEPS[1] - STEPS[0]))
        name = f"train {precision}, W = {ranks}"
        found |= {f"{name}: images / CPU s": cpu, f"{name}: images / s": wall}
        found[f"{name}: peak memory of a rank, GB"] = many.memory / 1e9
    more = SIZES[1] - SIZES[0]
    few, many = (embed(tree, folder, images) for images in SIZES)
    found["embed: images / CPU s"], found["embed: images / s"] = many.rates(few, more)
    few, many = (evaluate(tree, folder, images) for images in SIZES)
    cpu, wall = many.rates(few, 2 * more)  # two networks
    return found | {"evaluate: images / CPU s": cpu, "evaluate: images / s": wall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--shards", type=Path, required=True, help="CUB-200-2011")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the numbers of each repeat, as JSON")
    options = parser.parse_args()
    trees, found = {"before": options.before.resolve(), "after": ROOT}, []
    options.before = trees["before"]
    with TemporaryDirectory(prefix="cpu_speed_") as name:
        prepare(options, trees, Path(name))
        for _ in range(options.repeats):
            found.append({side: measure(options, tree, Path(name)) for side, tree in trees.items()})
            if options.out:
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    print("| | before | after | ratio |\n| --- | ---: | ---: | ---: |")
    for key in found[0]["before"]:
        before, after = (median(each[side][key] for each in found) for side in trees)
        print(f"| {key} | {before:.3g} | {after:.3g} | {after / before:.2f} |")


if __name__ == "__main__":
    main()
