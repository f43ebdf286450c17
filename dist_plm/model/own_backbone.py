"""Backbones defined outside of this package: `package.module:function`, or an nn.Module in the Python API.

Importing a module runs its code. So only names given by the user are imported, on the command line or in a
configuration named there, not a name in a file of an export.
"""

import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dist_plm.errors import UserError
from dist_plm.model.dropout import disable_dropout
from dist_plm.model.pixels import Pixels

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224  # of the image by which features are counted, where the network does not say how many there are

_allowed: set[str] = set()


def is_own(backbone: str) -> bool:
    """Whether a backbone's name is that of a function outside of this project."""
    return ":" in backbone


def allow(backbone: str) -> None:
    """Permit `build_backbone` to import this network, which the user has named."""
    _allowed.add(backbone)


def check_own(backbone: str) -> None:
    """Raise UserError if the user has not named this network, or it is not a function."""
    _function(backbone)


class WithoutRegisters(nn.Module):
    """Removes the tokens [b, n, C] between class token and patches; other outputs are unchanged."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, tokens: Tensor) -> Tensor:
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or self.prefix < 2:
            return tokens
        return torch.cat([tokens[:, :1], tokens[:, self.prefix :]], dim=1)


class OwnBackbone(nn.Module):
    """A network from outside, as a backbone.

    Args:
        net: Takes RGB images [b, 3, h, w], normalised by its attributes `mean` and `std` (scale 0-1; ImageNet's where
            it has none). Returns a map [b, C, h', w'], vectors [b, C], or tokens [b, n, C] of which the first
            `num_prefix_tokens` (0 where it has no such attribute) are no patches, and the very first the class token.
            `num_features` is C; where it is missing, one image of 224 px is put through to count them. Its dropout is
            switched off, see `disable_dropout`.

    Attributes:
        features: C.
        summary: Whether the first token is a class token.

    Raises:
        UserError: It returns something else.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        disable_dropout(net)
        self.net = net
        self.neck = WithoutRegisters(int(getattr(net, "num_prefix_tokens", 0)))
        self.summary = self.neck.prefix > 0
        mean, std = (getattr(net, name, default) for name, default in zip(("mean", "std"), IMAGENET, strict=True))
        self.pixels = Pixels([255 * float(value) for value in mean], [255 * float(value) for value in std])
        self.features: int = int(getattr(net, "num_features", 0)) or self._count()

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, C, h', w'], [b, n, C] or [b, C]."""
        return self.neck(self.net(self.pixels(images)))

    @torch.no_grad()
    def _count(self) -> int:
        training = self.training
        self.eval()
        output = self(torch.zeros(1, 3, SIDE, SIDE))
        self.train(training)
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
            raise UserError(
                "model.backbone: the network must return one tensor [b, C, h, w], [b, n, C] or [b, C], not "
                f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}"
            )
        return output.shape[2] if output.ndim == 3 else output.shape[1]


def build_own(backbone: str) -> nn.Module:
    """Call the function.

    Raises:
        UserError: It is not there, fails, or returns no nn.Module.
    """
    function = _function(backbone)
    try:
        net = function()
    except Exception as error:
        raise UserError(f"model.backbone {backbone}: the function failed ({type(error).__name__}: {error})") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"model.backbone {backbone} must return an nn.Module, not {type(net).__name__}")
    return net


def _function(backbone: str) -> Callable[[], object]:
    if backbone not in _allowed:
        raise UserError(
            f"the network {backbone} is defined by code outside of dist_plm, which is only run where you name it: "
            f"repeat the command with --backbone {backbone}"
        )
    module, _, name = backbone.partition(":")
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"model.backbone {backbone}: cannot import {module} ({type(error).__name__}: {error}). It is looked for on "
            "PYTHONPATH"
        ) from error
    function = getattr(imported, name, None)
    if not callable(function):
        raise UserError(f"model.backbone {backbone}: {module} has no function '{name}'")
    return function
