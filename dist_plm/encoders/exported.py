"""An exported network on disk: weights that execute nothing, and a description that any other program can follow.

    DIR/
        model.safetensors   the tensors of `Encoder`, by name
        model.onnx          only where asked for; model.onnx.data beside it above 1.5 GB
        model.pt2           only where asked for; of torch.export
        model.json          architecture, preprocessing, source, checks; bytes and sha256 of each file

model.json is written last: a folder without it holds no export.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dist_plm.checkpoint.checkpoint import file_digest
from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.model import weights
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
from dist_plm.model.encoder import Encoder
from dist_plm.parallel.strategy import PRECISIONS

FORMAT = 1
DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
FILTERS = {"auto": "bilinear", "bilinear": "bilinear", "bicubic": "bicubic"}
# Keys of ModelConfig that the exported network does not depend on.
_TRAINING_ONLY = ("weights", "momentum", "wide_dim", "trainable", "lora", "checkpointing")


def write_weights(folder: Path, embedder: Embedder) -> None:
    """Write model.safetensors into `folder`. Raises OSError where it can't be written."""
    state = {name: value.cpu().contiguous() for name, value in embedder.network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))


def write_description(folder: Path, embedder: Embedder, checks: dict[str, Any]) -> None:
    """Write model.json, which makes the files that are in `folder` an export.

    Args:
        checks: What was compared with the original, and the largest differences.
    """
    pixels: Any = embedder.network.backbone.pixels
    document = {
        "format": FORMAT,
        "architecture": {key: value for key, value in asdict(embedder.model).items() if key not in _TRAINING_ONLY},
        "precision": embedder.precision,
        "preprocessing": {
            "resize": embedder.views.resize,
            "size": embedder.views.size,
            "order": "upright by EXIF; shorter side to `resize`; centre crop of `size` x `size`",
            "filter": f"{FILTERS[embedder.views.interpolation]} with antialiasing, as Pillow's",
        },
        "input": {"name": "images", "layout": "[batch, 3, size, size]", "colours": "RGB", "range": [0, 255]},
        "inside_the_network": {
            "colours": "BGR" if isinstance(embedder.network.backbone, BvlcGooglenet) else "RGB",
            "mean": pixels.mean.flatten().tolist(),
            "std": pixels.std.flatten().tolist(),
        },
        "output": {"name": "embeddings", "layout": "[batch, dim]", "length": 1.0},
        "source": embedder.source,
        "checks": checks,
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != DESCRIPTION},
    }
    with replacing(folder / DESCRIPTION) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


def read_export(folder: Path, device: torch.device) -> Embedder:
    """The network of an export; only model.json and model.safetensors are read, and nothing in them is executed.

    Raises:
        UserError: A file is missing, damaged, of another format, or not of the architecture that model.json tells.
    """
    document, path = _description(folder), folder / WEIGHTS
    try:
        model = ModelConfig(**document["architecture"])
        crop, precision, source = (document[key] for key in ("preprocessing", "precision", "source"))
        views = ViewsConfig(size=int(crop["size"]), resize=int(crop["resize"]), interpolation=_filter(crop["filter"]))
        told = document["files"][WEIGHTS]
        str(source["model"]), str(source["run"]), int(source["step"]), PRECISIONS[precision]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / DESCRIPTION} is damaged ({reason}): copy or export it again") from error
    if path.is_file() and file_digest(path) != told:
        raise UserError(f"{path} is not as it was exported (sha256 differs): copy or export it again")
    return Embedder(ready(read_weights(folder, model), precision, device), model, views, precision, source)


def read_weights(folder: Path, model: ModelConfig) -> Encoder:
    """The network in model.safetensors.

    Raises:
        UserError: The file is missing, damaged, or of another architecture.
    """
    path = folder / WEIGHTS
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: copy or export it again") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or export it again") from error
    stored = state["head.weight"].shape[0] if "head.weight" in state else "none"
    if stored != model.dim:
        raise UserError(f"{path} embeds in dimension {stored}, {DESCRIPTION} says {model.dim}: export it again")
    try:
        network = Encoder(model)
        weights.load(network, state, path)
    except UserError as error:
        raise UserError(f"{folder} is no export of this version: {error}") from error
    return network


def _filter(told: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if told.startswith("bicubic") else "bilinear"


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["format"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no description of an export ({error}): copy or export it again") from error
    if found != FORMAT:
        raise UserError(f"{path} is of format {found}, this version reads {FORMAT}: export again with this version")
    return document
