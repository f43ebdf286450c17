"""An exported network on disk: safe weights, and a description for other programs.

    DIR/
        model.safetensors   the tensors of `Encoder`, by name
        model.onnx          on request; with model.onnx.data beside it above 1.5 GB
        model.pt2           on request; of torch.export
        model.json          architecture, preprocessing, source, checks; bytes and sha256 of each file

model.json is written last: a folder without it is not an export.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import torch
from safetensors.torch import load_file, save

from dist_plm.cli.limits import check_limits
from dist_plm.config import Config, ModelConfig, ViewsConfig
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.names import printable
from dist_plm.files.reading import file_digest, read_document
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
    """Write model.safetensors into `folder`. Raises OSError if it can't be written."""
    state = {name: value.cpu().contiguous() for name, value in embedder.network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))


def write_description(folder: Path, embedder: Embedder, checks: dict[str, Any]) -> None:
    """Write model.json, which completes the export in `folder`.

    Args:
        checks: Comparisons with the original, and the largest differences.
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
        UserError: A file is missing, damaged, of another format, or does not match the architecture in model.json.
    """
    document, path = _description(folder), folder / WEIGHTS
    try:
        model, views = _architecture(document), _views(document)
        precision, digest = document["precision"], document["files"][WEIGHTS]
        PRECISIONS[precision]
        source = _source(document)
        check_limits(Config(model=model, views=views))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / DESCRIPTION} is damaged ({reason}): copy or export it again") from error
    if path.is_file() and file_digest(path) != digest:
        raise UserError(f"{path} is damaged (its sha256 differs): copy or export it again")
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
    # safetensors raises several kinds of exception for damaged headers (SafetensorError, KeyError, TypeError, ...).
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}): copy or export it again") from error
    head = state.get("head.weight")
    stored = head.shape[0] if head is not None and head.ndim == 2 and head.numel() else "none"
    if stored != model.dim:
        raise UserError(f"{path} embeds in dimension {stored}, {DESCRIPTION} says {model.dim}: export it again")
    try:
        network = Encoder(model, blank=True)
        weights.load(network, state, path)
    except UserError as error:
        raise UserError(f"{folder} is not an export of this version: {error}") from error
    return network


def _architecture(document: dict[str, Any]) -> ModelConfig:
    """Parse the architecture. Raises KeyError, TypeError or ValueError if it is invalid."""
    values = document["architecture"]
    default = {key: value for key, value in asdict(ModelConfig()).items() if key not in _TRAINING_ONLY}
    if wrong := [key for key, value in values.items() if type(value) is not type(default.get(key))]:
        raise ValueError(f"architecture.{wrong[0]} is {values[wrong[0]]!r:.80}")
    model = ModelConfig(**values)
    if model.dim < 1 or model.pooling not in get_args(get_type_hints(ModelConfig)["pooling"]):
        raise ValueError(f"architecture of dim {model.dim} with pooling {model.pooling!r:.80}")
    return model


def _views(document: dict[str, Any]) -> ViewsConfig:
    crop = document["preprocessing"]
    views = ViewsConfig(size=int(crop["size"]), resize=int(crop["resize"]), interpolation=_filter(crop["filter"]))
    if not 1 <= views.size <= views.resize:
        raise ValueError(f"a crop of {views.size} pixels from {views.resize}")
    return views


def _source(document: dict[str, Any]) -> dict[str, Any]:
    """Origin of the network, with texts made safe for printing and the model's name for a path."""
    source = document["source"]
    checked = {**source, "model": str(source["model"]), "run": printable(source["run"], 200)}
    if not re.fullmatch(r"[\w-]{1,64}", checked["model"]):
        raise ValueError(f"source.model is {checked['model']!r:.80}")
    for key in ("step", "epochs"):
        checked[key] = int(source.get(key, 0))
    return checked


def _filter(interpolation: str) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if interpolation.startswith("bicubic") else "bilinear"


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        document = read_document(path)
        version = document["format"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is not a description of an export ({error}): copy or export it again") from error
    if version != FORMAT:
        raise UserError(f"{path} is of format {version}, this version reads {FORMAT}: export again with this version")
    return document
