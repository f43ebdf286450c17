"""Where the Caffe GoogLeNet is cut: what lies below is frozen and cached, what lies above is trained."""

import copy

from torch import nn

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
