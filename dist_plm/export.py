"""`python -m dist_plm.export`: the embedding network as safetensors and JSON, and as ONNX or torch.export on request.

Each file is compared with the network in the checkpoint on real images before the export is renamed into place.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.cli import OneLineParser, add_code_option, location, run_command, weights_path
from dist_plm.config import DataConfig
from dist_plm.errors import RunFailure, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dist_plm.encoders.embedder import Embedder
    from dist_plm.encoders.graphs import Run
    from dist_plm.telemetry.progress import Display

FORMATS = ("safetensors", "onnx", "torch_export")
IMAGES = 32
# Largest difference of a coordinate of two unit vectors. Other kernels sum in another order: ONNX Runtime differed
# by at most 4e-7, for networks of 0.5 M to 86 M parameters.
BOUND = 1e-5


def main() -> int:
    """Load, write under a temporary name, check, rename."""
    options = _parse()
    from dist_plm.checkpoint.retention import run_of

    out = options.out or run_of(options.checkpoint) / f"export_{options.model or 'student'}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: remove it, or choose another folder with --out")

    from dist_plm.encoders.graphs import require

    require(options.format)

    from dist_plm.distributed.world import World
    from dist_plm.encoders.networks import load_network, locate
    from dist_plm.model.own_backbone import allow
    from dist_plm.telemetry.progress import Display

    allow(options.backbone)
    trained = locate(options.checkpoint)
    embedder = load_network(trained, options.model)
    views = _views(options.shards, trained.config.data, embedder)
    display = Display(World())
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        checks = _write(temporary, embedder, views, options.format, display)
        temporary.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): choose another folder with --out") from error
    finally:
        display.close()
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{out}: {embedder}, checked on {checks['images']} images")
    for file, difference in checks["max_difference"].items():
        print(f"  {file:18} {(out / file).stat().st_size / 1e6:8.1f} MB   max difference {difference:.1e}")
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="run directory, or an export to convert")
    parser.add_argument("--model", choices=("student", "teacher"), default="", help="of a run: student by default")
    parser.add_argument("--out", type=weights_path, help="folder to create (default: RUN_DIR/export_MODEL)")
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["safetensors"], help="safetensors is implied")
    parser.add_argument("--shards", type=location, help="data set for the check (default: the run's)")
    add_code_option(parser)
    return parser.parse_args()


def _views(shards: str | None, data: DataConfig, embedder: "Embedder") -> "Tensor":
    """Evaluation views [n, 3, s, s] of images from all over a split."""
    import numpy as np
    import torch

    from dist_plm.data.opening import open_split
    from dist_plm.data.views import eval_view

    data = replace(data, shards=shards or data.shards)
    if not data.shards:
        raise UserError("the check of an export needs real images: name a data set with --shards")
    with open_split(data, data.test_split or data.train_split) as store:
        ids = np.linspace(0, len(store) - 1, min(IMAGES, len(store))).astype(int)
        images = [eval_view(store.read_image(int(id)), config=embedder.views) for id in ids]
    return torch.from_numpy(np.stack(images))


def _write(
    folder: Path, embedder: "Embedder", views: "Tensor", formats: list[str], display: "Display"
) -> dict[str, Any]:
    """Write and check every file; model.json last. Returns the checks for model.json."""
    from dist_plm.encoders.embedder import ready
    from dist_plm.encoders.exported import WEIGHTS, read_weights, write_description, write_weights
    from dist_plm.encoders.graphs import WRITERS

    # In the precision of its weights: other programs lack the bf16 kernels.
    expected = _embedded(embedder.network, views)
    differences: dict[str, float] = {}
    others = [name for name in WRITERS if name in formats]
    with display.phase("export", 1 + len(others), "files") as phase:
        write_weights(folder, embedder)
        reread = ready(read_weights(folder, embedder.model), embedder.precision, embedder.device)
        differences[WEIGHTS] = _difference(WEIGHTS, _embedded(reread, views), expected)
        phase.advance(note=WEIGHTS)
        for name in others:
            file, run = WRITERS[name](folder, embedder)
            differences[file] = _difference(file, _embedded(run, views), expected)
            phase.advance(note=file)
    checks = {"images": len(views), "bound": BOUND, "max_difference": differences}
    write_description(folder, embedder, checks)
    return checks


def _embedded(run: "Run", views: "Tensor") -> "Tensor":
    """Embeddings of the views, in batches of one, two and the rest."""
    import torch

    with torch.inference_mode():
        return torch.cat([run(piece) for piece in views.tensor_split([1, 3]) if len(piece)])


def _difference(file: str, actual: "Tensor", expected: "Tensor") -> float:
    difference = float((actual - expected).abs().max())
    if not difference <= BOUND:
        raise RunFailure(
            f"{file} gives other embeddings than the checkpoint: {difference:.1e} apart, at most {BOUND:.0e}"
        )
    return difference


if __name__ == "__main__":
    run_command(main)
