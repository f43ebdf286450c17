"""Pretrained features without training: a backbone with its own preprocessing and pooling, optionally whitened.

The baseline of every run. The head is the identity, or a closed-form whitening of the pooled features of a data set,
so that every command that accepts a trained network accepts this one too.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_plm import __version__
from dist_plm.config import Config, DataConfig, ModelConfig, ViewsConfig
from dist_plm.data.opening import open_split
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.errors import UserError
from dist_plm.index.embedding_pass import sweep
from dist_plm.index.rows import MappedRows
from dist_plm.model import Encoder
from dist_plm.model.preprocessing import check_size, own_pooling, own_views
from dist_plm.telemetry.progress import Display
from dist_plm.training.head_start import principal_projection


@dataclass(frozen=True)
class FrozenNetwork:
    """A backbone without training, in place of a run or an export.

    Args:
        names: `frozen`, and `whitened` if a data set for whitening was named.
        config: The defaults with the network's own preprocessing.
        embedders: By name, on the device of the world.
    """

    path: Path
    names: tuple[str, ...]
    config: Config
    embedders: dict[str, Embedder]

    def load(self, name: str, device: torch.device) -> Embedder:
        """The network called `name`."""
        return replace(self.embedders[name], network=self.embedders[name].network.to(device))

    def proxies(self) -> None:
        """None, since nothing was trained."""


def frozen_network(options: argparse.Namespace, folder: Path, world: World, display: Display) -> FrozenNetwork:
    """Build the network, and whiten its features on request. A collective.

    Args:
        options: Parsed options of `cli.add_frozen_options`.
        folder: For the embeddings of the data set for whitening; visible to all ranks.

    Raises:
        UserError: As `Encoder`; the image size is not supported; too few images for whitening.
    """
    model = ModelConfig(backbone=options.backbone, weights=options.weights)
    views = own_views(model, ViewsConfig(), size=options.size, resize=options.resize)
    pooling: Any = options.pooling or own_pooling(model)
    model = replace(model, pooling=pooling)
    network = frozen_encoder(Encoder(model), model)
    check_size(network, options.backbone, views.size)
    config = Config(data=DataConfig(shards=""), views=views, model=model)
    embedders = {"frozen": _embedder(network, model, config, world, "frozen")}
    if options.whiten:
        embedders["whitened"] = _whitened(network, model, config, options, folder, world, display)
    return FrozenNetwork(Path(options.backbone), tuple(embedders), config, embedders)


def frozen_encoder(encoder: Encoder, model: ModelConfig) -> Encoder:
    """The encoder with an identity head: embeddings are normalised pooled features."""
    encoder.head = nn.Linear(encoder.pooling.features, encoder.pooling.features).requires_grad_(False)
    nn.init.eye_(encoder.head.weight)
    nn.init.zeros_(encoder.head.bias)
    encoder.wide_head, encoder.norm = None, nn.Identity()
    return encoder


def module_embedder(net: nn.Module, *, pooling: Any, size: int, resize: int, device: torch.device) -> Embedder:
    """The pooled features of a given network, normalised.

    Raises:
        UserError: It returns no features, has no class token to pool by, or does not support this image size.
    """
    model = ModelConfig(backbone=type(net).__name__, pooling=pooling)
    config = Config(views=ViewsConfig(size=size, resize=resize))
    network = frozen_encoder(Encoder(model, network=net), model)
    check_size(network, model.backbone, size)
    return _embedder(network, model, config, World(device=device), "frozen")


def _embedder(network: Encoder, model: ModelConfig, config: Config, world: World, name: str) -> Embedder:
    source: dict[str, Any] = {
        "run": model.backbone,
        "model": name,
        "step": 0,
        "epochs": 0,
        "weights": getattr(network.backbone, "origin", "") or f"weights {model.weights or 'random'}",
        "versions": {"dist_plm": __version__, "torch": torch.__version__},
    }
    model = replace(model, dim=network.head.out_features)
    return Embedder(ready(network, "fp32", world.device), model, config.views, "fp32", source)


def _whitened(
    network: Encoder, model: ModelConfig, config: Config, options: argparse.Namespace, folder: Path,
    world: World, display: Display,
) -> Embedder:  # fmt: skip
    data = replace(config.data, shards=options.whiten)
    with open_split(data, data.train_split) as store, torch.inference_mode():
        swept = sweep(network.pooled, store, folder / "pooled", config=replace(config, data=data), world=world,
                      display=display, title="features for whitening")  # fmt: skip
    try:
        weight, bias = principal_projection(MappedRows(swept, 0, len(swept), world.device), options.dim, whiten=True)
    except UserError as error:
        raise UserError(
            f"--dim {options.dim}: the features of the {len(swept):,} images of --whiten {options.whiten} have fewer "
            "directions: lower --dim, or name a larger data set"
        ) from error
    twin = Encoder(replace(model, weights="", dim=options.dim))
    twin.backbone, twin.pooling = network.backbone, network.pooling
    with torch.no_grad():
        for parameter, fitted in ((twin.head.weight, weight), (twin.head.bias, bias)):
            parameter.copy_(world.from_first(fitted.cpu))
    return _embedder(twin, model, config, world, "whitened")
