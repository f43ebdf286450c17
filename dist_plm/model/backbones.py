"""Backbones by name: `bvlc_googlenet`, `small`, or a classification model of torchvision."""

from difflib import get_close_matches

from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import weights
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
from dist_plm.model.small import Small

OWN: dict[str, type[nn.Module]] = {"bvlc_googlenet": BvlcGooglenet, "small": Small}


def check_model(config: ModelConfig) -> None:
    """Checks the names in a config, without building or downloading anything.

    Raises:
        UserError: An unknown backbone, weights that this backbone does not have, or no such file.
    """
    if config.backbone not in OWN:
        _check_name(config.backbone)
    if config.weights == "imagenet" and config.backbone == "bvlc_googlenet":
        raise UserError(
            "model.weights: nobody serves bvlc_googlenet's weights for torch, so 'imagenet' cannot fetch them. "
            "Download bvlc_googlenet.caffemodel of the BVLC model zoo and name that file "
            "(github.com/BVLC/caffe/tree/master/models/bvlc_googlenet)"
        )
    if config.weights == "imagenet" and config.backbone in OWN:
        raise UserError(f"model.weights: {config.backbone} has no weights of ImageNet; leave it empty or name a file")
    if config.weights not in ("", "imagenet"):
        weights.check_file(config.weights)


def build_backbone(config: ModelConfig) -> nn.Module:
    """A backbone with its weights; random ones are drawn from torch's default generator.

    Args:
        config: Which backbone and which weights.

    Returns:
        A module with `features`, the channels C of its last map, that takes RGB images [b, 3, h, w] in 0-255, uint8 or
        float, and returns [b, C, h', w'].

    Raises:
        UserError: As check_model; a failed download; a file that fits another network.
    """
    check_model(config)
    backbone, trunk, unused = _own(config.backbone) if config.backbone in OWN else _torchvision(config)
    if config.weights not in ("", "imagenet"):
        path = weights.check_file(config.weights)
        # Caffe parts the names of layers by slashes; no other file has them.
        state = {name.replace("/", "."): tensor for name, tensor in weights.read_file(path).items()}
        weights.load(trunk, state, path, unused=unused)
    return backbone


# Of a backbone: itself, the module that a file of weights is of, and how the names begin that it has no use for.
Parts = tuple[nn.Module, nn.Module, tuple[str, ...]]


def _own(name: str) -> Parts:
    backbone = OWN[name]()
    return backbone, backbone, ("loss",) if name == "bvlc_googlenet" else ()  # "loss": its three classifiers


def _torchvision(config: ModelConfig) -> Parts:
    # Here and below, since torchvision takes a second or two to import, which the others need not wait for.
    from dist_plm.model.torchvision_backbone import TorchvisionBackbone

    backbone = TorchvisionBackbone(config.backbone, config.weights == "imagenet")
    return backbone, backbone.trunk, backbone.unused


def _check_name(name: str) -> None:
    from dist_plm.model.torchvision_backbone import FAMILIES, supported

    names = [*OWN, *supported()]
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        raise UserError(
            f"model.backbone: no backbone '{name}'"
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + f" There are {', '.join(OWN)} and torchvision's {', '.join(FAMILIES)} (all sizes)"
        )
