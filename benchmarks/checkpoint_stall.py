"""How long a save holds up training, as a share of a step: written beside training, and waited for. A Markdown table.

    python -m benchmarks.checkpoint_stall --backbones googlenet vit_l_16 --images 20 4

One rank on the CPU, the method's full step (student, teacher, neighbourhoods, losses, Adam) on random views. A save
stalls for the copy to host memory (async), or until all is written, hashed and renamed (sync). While it is written
beside training the steps after it are slower, since hashing takes cores; what that costs is the last column.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine
from dist_plm.checkpoint.saver import Saver
from dist_plm.config import BatchConfig, CheckpointConfig, Config, ManifoldConfig, ModelConfig, RuntimeConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.connection import connect, disconnect
from dist_plm.distributed.world import World
from dist_plm.telemetry.progress import Display
from dist_plm.training.learner import Learner, phases

FACTS: dict[str, Any] = {"position": {"epochs": 0, "batch": 1}}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["googlenet", "vit_l_16"])
    parser.add_argument("--images", type=int, nargs="+", default=[20, 4], help="in a batch, for each backbone")
    parser.add_argument("--size", type=int, default=224, help="of a view, pixels")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured")
    options = parser.parse_args()
    world = connect(RuntimeConfig(device="cpu"))
    command = f"python -m benchmarks.checkpoint_stall {' '.join(sys.argv[1:])}"
    print(f"`{command}` on {machine()}, {torch.get_num_threads()} compute threads\n")
    print("| parameters, M | saved, GB | images | step, s | stall async, s | sync, s | async / step | sync / step "
          "| steps slowed by a write |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for backbone, images in zip(options.backbones, options.images, strict=True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(measure(backbone, images, options.size, options.saves, Path(folder), world), flush=True)
    disconnect(world)
    print(f"\nMedians of {options.saves} saves. torch {torch.__version__}, Python {platform.python_version()}")


def measure(backbone: str, images: int, size: int, saves: int, folder: Path, world: World) -> str:
    """A row of the table."""
    config = Config(
        model=ModelConfig(backbone=backbone),
        batch=BatchConfig(groups=images // 2, group_size=2),
        manifold=ManifoldConfig(k=min(10, 2 * images - 1), dim=min(3, 2 * images - 2)),
    )
    learner = Learner(config, world, phases(config)[0])
    views = torch.randint(0, 256, (images * config.views.count, 3, size, size), dtype=torch.uint8)
    batch = Batch(0, torch.arange(images), views)
    saver = Saver(folder, world, Display(world), CheckpointConfig(keep=1))
    step = 0

    def train() -> float:
        nonlocal step
        began, step = time.perf_counter(), step + 1
        learner.step(batch, 0, 10**6)
        return time.perf_counter() - began

    def save() -> float:
        began = time.perf_counter()
        saver.save(step, learner.state(), FACTS)
        return time.perf_counter() - began

    train()
    steps, stalls, beside, syncs = [train() for _ in range(saves)], [], [], []
    for _ in range(saves):
        stalls.append(save())
        while saver.busy:
            beside.append(train())
        saver.finish()
        steps.append(train())
    for _ in range(saves):
        train()
        began = time.perf_counter()
        save()
        saver.finish()
        syncs.append(time.perf_counter() - began)
    plain, stall, sync = (statistics.median(each) for each in (steps, stalls, syncs))
    saved = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    count = sum(parameter.numel() for parameter in learner.student.parameters()) / 1e6
    slower = f"{len(beside) / saves:.0f} by {100 * (statistics.mean(beside) / plain - 1):.0f} %" if beside else "none"
    return (
        f"| {count:.0f} | {saved:.2f} | {images} | {plain:.2f} | {stall:.3f} | {sync:.2f} | {stall / plain:.3f} "
        f"| {sync / plain:.2f} | {slower} |"
    )


if __name__ == "__main__":
    main()
