"""Measure what a rank holds of a ViT-L/16 (304 M weights) under each stage of ZeRO, on CPU with gloo.

    python -m benchmarks.zero_memory --ranks 1 2 4

Writes benchmarks/zero_memory.md. Bytes are counted on the tensors that exist, each storage once: the student's weights
and what the rule (Adam) keeps. They exist before the first step, so none is taken; the weights are zeros.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import environments, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], metavar="W")
    parser.add_argument("--backbone", default="vit_l_16", help="a model of torchvision")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), metavar="FILE")
    arguments = parser.parse_args()
    pairs = [(1, 0), *((size, stage) for size in arguments.ranks for stage in (1, 2, 3))]
    rows = []
    for size, stage in pairs:
        rows.append((size, stage, measured(arguments.backbone, size, stage)))
        print(rows[-1], file=sys.stderr, flush=True)
    ranks = " ".join(map(str, arguments.ranks))
    head = rows[0][2]
    lines = [
        "# What a rank holds under ZeRO",
        "",
        f"{arguments.backbone} with a head of 128, {head['weights'] / 1e6:.1f} M weights in float32, Adam. GB a",
        "rank, before the first step: `weights` are the student's, `moments` Adam's, `moved` the copy of a slice of",
        "the weights that Adam moves under ZeRO. `computed` is what `--plan` says for the three, to which it adds",
        f"gradients and the momentum encoder. {machine()}, gloo,",
        f"torch {head['torch']}, DeepSpeed {head['deepspeed']}.",
        "",
        f"`python -m benchmarks.zero_memory --backbone {arguments.backbone} --ranks {ranks}`",
        "",
        "| W | strategy | weights | moved | moments | sum | computed |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, stage, found in rows:
        name = f"{size} | ZeRO-{stage}" if stage else "any | DDP"
        numbers = [found[key] / 1e9 for key in ("held", "moved", "moments", "sum", "computed")]
        lines.append(f"| {name} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def measured(backbone: str, size: int, stage: int) -> dict:
    """The largest of the ranks; each is a process."""
    ranks = []
    for environment in environments(size):
        call = f"zero_memory.report({backbone!r}, {stage})"
        code = f"import sys; sys.path[:0] = ['benchmarks', '.']; import zero_memory; {call}"
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=Path(__file__).resolve().parents[1],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    answers = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"W = {size}, stage {stage}: a rank failed")
    return max((json.loads(answer.splitlines()[-1]) for answer in answers), key=lambda found: found["sum"])


def report(backbone: str, stage: int) -> None:
    """Print what this rank holds."""
    from importlib.metadata import version

    import torch
    from torch import nn

    from dist_plm.config import ModelConfig, OptimiserConfig, RuntimeConfig, ZeroConfig
    from dist_plm.distributed.connection import connect
    from dist_plm.model import Encoder
    from dist_plm.parallel.optimiser import build_updates
    from dist_plm.parallel.strategy import DataParallel, Strategy, Zero
    from dist_plm.parallel.strategy.memory import FLOAT, network_bytes

    world = connect(RuntimeConfig(device="cpu", threads=1))
    with torch.device("meta"):
        student = Encoder(ModelConfig(backbone=backbone, dim=128))
    student = student.to_empty(device="cpu")
    weights = sum(parameter.numel() for parameter in student.parameters())
    for tensor in (*student.parameters(), *student.buffers()):
        tensor.detach().zero_()
    updates = build_updates(
        student.backbone.parameters(), student.head_parameters(), [], OptimiserConfig(), method_lr_scale=1.0
    )
    strategy: Strategy
    zero = ZeroConfig(stage) if stage else None  # type: ignore[arg-type]
    if zero is None:
        strategy = DataParallel(student, updates, world, precision="fp32", micro_batches=1)
    else:  # an encoder that is never asked for stands in for the momentum encoder
        strategy = Zero(student, nn.Linear(1, 1), updates, world, zero, precision="fp32", micro_batches=1)
    rule = updates.network
    kept = [value for state in rule.state.values() for value in state.values()]
    local = list(strategy.local(student).values())
    moved = list(rule.state)
    numbers: dict[str, float] = {
        "held": _bytes(local),
        "moved": _bytes([*local, *moved]) - _bytes(local),
        "moments": _bytes(kept),
    }
    whole = FLOAT * weights * (1 if stage < 3 else 1 / world.size)
    gradients = FLOAT * weights * (1 if stage < 2 else 1 / world.size)
    numbers |= {
        "sum": sum(numbers.values()),
        "computed": network_bytes(weights, 2, world.size, zero) - whole - gradients,
    }
    world.barrier("the end")
    print(json.dumps({**numbers, "weights": weights, "torch": torch.__version__, "deepspeed": version("deepspeed")}))


def _bytes(tensors: list) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    main()
