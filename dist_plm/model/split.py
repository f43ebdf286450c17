"""Splits an encoder into a frozen part, shared by student and teacher, and a trainable part.

The trainable part is a separate module, the only one that data parallelism, optimizer, momentum encoder and ZeRO see.
So frozen weights have no gradient, no optimizer state, no communication and no second copy.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model.adapters import add_adapters
from dist_plm.model.chain import Unit, blocks
from dist_plm.model.encoder import Encoder, Heads


class Frozen:
    """The frozen part of an encoder: images [b, 3, h, w] -> input of the trainable part [b, ...], without gradient.

    Args:
        encoder: The whole encoder; its frozen part is in evaluation mode.
        first: The first trainable module; None: the heads.
    """

    def __init__(self, encoder: Encoder, first: nn.Module | None) -> None:
        self.encoder, self.first = encoder, first

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        if self.first is None:
            # The exponent of generalised-mean pooling is trainable, so the map is the input.
            learned = any(True for _ in self.encoder.pooling.parameters())
            return self.encoder.backbone(images) if learned else self.encoder.pooled(images)
        hook = self.first.register_forward_pre_hook(_stop, prepend=True)  # before ZeRO gathers its weights
        try:
            self.encoder.backbone(images)
        except _Reached as reached:
            return reached.features
        finally:
            hook.remove()
        raise AssertionError("the backbone ended before its first trained block")


class _Reached(Exception):
    """Carries the input of the first trainable block; later blocks are not computed."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


def _stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _Reached(inputs[0])


class Trained(Heads):
    """The trainable part of an encoder, from its first trainable block on, with the encoder's names of weights.

    Args:
        encoder: The encoder whose modules it shares.
        units: The trainable modules of its backbone, in order; none if only the heads are trainable.
        checkpointing: Activation checkpointing per block.
    """

    def __init__(self, encoder: Encoder, units: list[Unit], *, checkpointing: bool = False) -> None:
        super().__init__(encoder.pooling, encoder.head, encoder.wide_head, encoder.norm)
        self.backbone = nn.Module()
        self._units = [(unit.name, unit.extra) for unit in units]
        self._checkpointing = checkpointing
        for unit in units:
            _graft(self.backbone, unit.name, unit.module)
        neck = getattr(encoder.backbone, "neck", None)
        self._has_neck = False
        if units and isinstance(neck, nn.Module):
            self._has_neck, self.backbone.neck = True, neck

    def forward(self, features: Tensor) -> Tensor:
        """Output of `Frozen` -> [b, D] of unit length; with a wide head [b, D + wide_dim]."""
        return self.points(self.pooled(features))

    def pooled(self, features: Tensor) -> Tensor:
        """Output of `Frozen` -> pooled features [b, F]."""
        for name, extra in self._units:
            module = self.backbone.get_submodule(name)
            if self._checkpointing and self.training and torch.is_grad_enabled():
                features = checkpoint(module, features, use_reentrant=False, preserve_rng_state=False, **extra)
            else:
                features = module(features, **extra)
        return self.pool(self.backbone.neck(features) if self._has_neck else features)  # type: ignore[operator]

    def put_into(self, encoder: Encoder) -> Encoder:
        """The encoder with this part's modules and weights in place of its own."""
        for name, _ in self._units:
            encoder.backbone.set_submodule(name, self.backbone.get_submodule(name))
        if self._has_neck:
            encoder.backbone.neck = self.backbone.neck
        encoder.pooling, encoder.head, encoder.wide_head = self.pooling, self.head, self.wide_head
        encoder.norm = self.norm
        return encoder


class Joined(nn.Module):
    """Frozen and trainable part as one network from images to embeddings, for embedding passes and evaluation."""

    def __init__(self, frozen: Frozen, trained: nn.Module) -> None:
        super().__init__()
        self._frozen, self.trained = frozen, trained

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, D] (or [b, D + wide_dim])."""
        return self.trained(self._frozen(images))


@dataclass(frozen=True)
class Split:
    """The split of an encoder.

    Args:
        trainable: The trainable blocks of the backbone, one list of modules each; all known blocks if everything is
                trainable.
            whole: Whether everything is trainable, so that there is no split.
        checkpointing: As `ModelConfig.checkpointing`.
    """

    trainable: list[list[Unit]]
    whole: bool
    checkpointing: bool

    def parts(self, encoder: Encoder) -> tuple[Frozen | None, Heads]:
        """The frozen part, if any, and the trainable part."""
        if self.whole:
            if self.checkpointing:
                encoder.backbone.checkpointed()  # type: ignore[operator]
            return None, encoder
        # By name, since ZeRO may have replaced modules.
        units = [
            Unit(unit.name, encoder.backbone.get_submodule(unit.name), unit.extra)
            for group in self.trainable
            for unit in group
        ]
        encoder.eval()
        trained = Trained(encoder, units, checkpointing=self.checkpointing)
        kept = {id(parameter) for parameter in trained.parameters()}
        for parameter in encoder.parameters():
            if id(parameter) not in kept:
                parameter.requires_grad_(False)
        return Frozen(encoder, units[0].module if units else None), trained

    def scales(self, part: Heads, decay: float) -> dict[nn.Parameter, float]:
        """Learning rates of the backbone's weights under `optimiser.layer_decay`, as multiples: the last block's is
        `decay`, the one's before `decay`^2, and so on (Clark et al., ICLR 2020; Bao et al., ICLR 2022)."""
        factors: dict[nn.Parameter, float] = {}
        if decay == 1:
            return factors
        names = dict(part.backbone.named_modules())  # type: ignore[union-attr]
        for depth, group in enumerate(reversed(self.trainable), start=1):
            for unit in group:
                after = depth - 1 if group is self.trainable[-1] and not unit.is_block else depth
                factors |= dict.fromkeys(names[unit.name].parameters(), decay**after)
        before = decay ** (len(self.trainable) + 1)
        rest = (p for p in part.backbone.parameters() if p not in factors)  # type: ignore[union-attr]
        return factors | dict.fromkeys(rest, before)


def split(encoder: Encoder, config: ModelConfig, size: int, *, seed: int = 0, layers: bool = False) -> Split:
    """Split an encoder by `model.trainable`; with `model.lora` adds adapters to the trainable blocks.

    Args:
        encoder: On its device, in its precision.
        config: Model settings.
        size: Side of the images, pixels.
        seed: Seed of the adapters.
        layers: Whether blocks are needed although everything is trainable.

    Raises:
        UserError: The backbone has no such blocks, or does not support this image size.
    """
    count, adapted = blocks_wanted(config.trainable), config.lora.rank > 0
    whole = config.trainable == "all" and not adapted
    if whole and config.checkpointing and not hasattr(encoder.backbone, "checkpointed"):
        raise UserError(
            f"model.checkpointing: {config.backbone} is not supported as a whole; set --model.trainable blocks:N, or "
            "use a network of timm (timm/NAME)"
        )
    if not (count or adapted or layers):
        return Split([], whole=whole, checkpointing=config.checkpointing)
    encoder.eval()
    weight = encoder.head.weight
    images = torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype)
    groups = blocks(encoder.backbone, images)
    if count > len(groups) or not groups:
        raise UserError(
            f"model.trainable {config.trainable}: {config.backbone} can be split before at most its last "
            f"{len(groups)} blocks{' (they are not sequential)' if not groups else ''}: "
            "lower N, or set --model.trainable head, or all without model.lora and optimiser.layer_decay"
        )
    groups = groups[len(groups) - count :] if count else groups
    if adapted:
        while not groups[0][0].is_block:  # a layer without adapters has nothing to train
            groups[0].pop(0)
        add_adapters(encoder, [unit for group in groups for unit in group], config, images, seed=seed)
    return Split(groups, whole=whole, checkpointing=config.checkpointing)


def blocks_wanted(trainable: str) -> int:
    """N of `blocks:N`; 0 for `all` and `head`. Raises UserError for anything else."""
    matched = re.fullmatch(r"blocks:([1-9]\d*)", trainable)
    if not matched and trainable not in ("all", "head"):
        raise UserError(f"model.trainable is '{trainable}': it must be all, head or blocks:N, such as blocks:2")
    return int(matched[1]) if matched else 0


def freeze_unused(part: Heads, images: Tensor) -> None:
    """Freeze weights without gradient, such as a classifier layer after the features, for which DDP would wait.

    Args:
        part: The trainable part.
        images: [b, ...] input of the part.
    """
    trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
    training = part.training
    with torch.enable_grad():
        total = part.eval()(images).sum()
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
    part.train(training)
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)


def _graft(root: nn.Module, path: str, module: nn.Module) -> None:
    *above, name = path.split(".")
    for part_name in above:
        if part_name not in root._modules:
            root.add_module(part_name, nn.Module())
        root = root.get_submodule(part_name)
    root.add_module(name, module)
