"""Low-rank adapters (LoRA) by peft on the linear layers of blocks, and merging them into the weights.

peft imports transformers, which takes seconds: it is only imported for adapters.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model.chain import Unit
from dist_plm.model.encoder import Encoder


def check_adapters(config: ModelConfig) -> None:
    """Raise UserError if `model.lora` is not possible: peft is missing, or a key contradicts it."""
    lora = config.lora
    if lora.rank < 0 or lora.alpha <= 0:
        raise UserError(f"model.lora: rank {lora.rank} must not be negative, and alpha {lora.alpha} must be above 0")
    if not lora.rank:
        return
    if not find_spec("peft"):
        raise UserError("model.lora needs peft: pip install -e '.[lora]'")
    if config.trainable == "head":
        raise UserError("model.lora puts adapters into blocks, and model.trainable head trains none: set it to all")


def add_adapters(encoder: Encoder, units: list[Unit], config: ModelConfig, images: Tensor, *, seed: int) -> None:
    """Put an adapter on each linear layer of the units that `model.lora.targets` names, in place.

    All other weights of the backbone are frozen. B starts at 0, so the output of the network is unchanged.

    Args:
        images: [b, 3, h, w], to check that the network calls the layers.
        seed: Seed of A.

    Raises:
        UserError: No such layer, or one whose weight the network uses without calling the layer.
    """
    targets = config.lora.targets
    names = [
        f"{unit.name}.{name}"
        for unit in units
        for name, module in unit.module.named_modules()
        if isinstance(module, nn.Linear) and (not targets or name.rpartition(".")[2] in targets)
    ]
    if not names:
        linear = sorted({
            name.rpartition(".")[2]
            for unit in units
            for name, module in unit.module.named_modules()
            if isinstance(module, nn.Linear)
        })  # fmt: skip
        raise UserError(
            f"model.lora.targets {targets}: {config.backbone} has no such linear layers in its blocks, only: "
            f"{', '.join(linear) or 'none'}"
        )
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        alpha: Any = config.lora.alpha  # peft takes any number, though it says int
        settings = LoraConfig(r=config.lora.rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0)
        inject_adapter_in_model(settings, encoder.backbone)
    _check_called(encoder, images, config)


@torch.no_grad()
def merge_adapters(encoder: Encoder) -> Encoder:
    """The encoder with its adapters added into the weights: W + alpha / rank B A."""
    for name, layer in _adapted(encoder):
        layer.merge()
        encoder.set_submodule(name, layer.get_base_layer())
    return encoder


def _adapted(encoder: Encoder) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, LoraLayer)]


@torch.no_grad()
def _check_called(encoder: Encoder, images: Tensor, config: ModelConfig) -> None:
    layers, called = dict(_adapted(encoder)), set()
    hooks = [
        layer.register_forward_hook(lambda _, __, ___, name=name: called.add(name)) for name, layer in layers.items()
    ]
    encoder.backbone(images)
    for hook in hooks:
        hook.remove()
    if silent := sorted({name.rpartition(".")[2] for name in layers.keys() - called}):
        others = sorted({name.rpartition(".")[2] for name in called})
        raise UserError(
            f"model.lora.targets: {config.backbone} uses the weights of {', '.join(silent)} without calling the layer, "
            f"so an adapter there has no effect: name others, {others}"
        )
