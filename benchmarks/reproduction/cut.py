"""Where the Caffe GoogLeNet is cut: what lies below is frozen and cached, what lies above is trained."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dist_plm.model.bvlc_googlenet import BvlcGooglenet

BLOCKS = ("inception_5a", "inception_5b")
# The first trained block; `head` trains the linear layer alone.
CUTS = (*BLOCKS, "head")


def below(backbone: BvlcGooglenet) -> nn.Module:
    """Images [b, 3, h, w] -> the maps that enter the first of BLOCKS [b, 832, h / 32, w / 32]."""
    trunk = copy.deepcopy(backbone)
    for name in BLOCKS:
        setattr(trunk, name, nn.Identity())
    return trunk.eval().requires_grad_(False)


def above(backbone: BvlcGooglenet, cut: str) -> nn.Module:
    """Maps that enter `cut` -> the maps that leave the backbone [b, 1024, ...]; the backbone's own blocks."""
    return nn.Sequential(*(getattr(backbone, name) for name in BLOCKS[CUTS.index(cut) :]))


@torch.no_grad()
def insert_batch_norm(blocks: nn.Module, maps: Iterable[Tensor]) -> None:
    """A batch norm layer behind each convolution, in place, by which nothing changes in evaluation mode: its scale and
    shift undo its statistics, which are those of `maps`, batches [b, C, h, w] of what enters the blocks."""
    convolutions = {name: layer for name, layer in blocks.named_modules() if isinstance(layer, nn.Conv2d)}
    norms = {name: nn.BatchNorm2d(layer.out_channels, momentum=None) for name, layer in convolutions.items()}
    hooks = [layer.register_forward_hook(_seen_by(norms[name])) for name, layer in convolutions.items()]
    for batch in maps:
        blocks(batch)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        assert norm.running_var is not None and norm.running_mean is not None
        norm.momentum = nn.BatchNorm2d(1).momentum
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)
        parent, _, own = name.rpartition(".")
        setattr(blocks.get_submodule(parent), own, nn.Sequential(convolutions[name], norm))


def _seen_by(norm: nn.BatchNorm2d) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        norm(maps)

    return hook
