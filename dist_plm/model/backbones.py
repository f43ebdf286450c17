"""Backbones by name: `bvlc_googlenet`, `small`, or a classification model of torchvision."""

from difflib import get_close_matches

from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import weights
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
from dist_plm.model.small import Small
from dist_plm.model.torchvision_backbone import FAMILIES, TorchvisionBackbone, supported

OWN: dict[str, type[nn.Module]] = {"bvlc_googlenet": BvlcGooglenet, "small": Small}


def check_model(config: ModelConfig) -> None:
    """Checks the names in a config, without building or downloading anything.

    Raises:
        UserError: An unknown backbone, weights that this backbone does not have, or no such file.
    """
    names = [*OWN, *supported()]
    if config.backbone not in names:
        near = get_close_matches(config.backbone, names, n=3, cutoff=0.5)
        raise UserError(
            f"model.backbone: no backbone '{config.backbone}'"
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + f" There are {', '.join(OWN)} and torchvision's {', '.join(FAMILIES)} (all sizes)"
        )
    if config.weights == "imagenet" and config.backbone == "bvlc_googlenet":
        raise UserError(
            "model.weights: nobody serves bvlc_googlenet's weights for torch, so 'imagenet' cannot fetch them. Convert "
            "bvlc_googlenet.caffemodel of the BVLC model zoo (github.com/BVLC/caffe/tree/master/models/bvlc_googlenet) "
            "to a .safetensors file under its Caffe names ('conv1/7x7_s2.weight', ...) and name that file"
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
    own = config.backbone in OWN
    backbone = OWN[config.backbone]() if own else TorchvisionBackbone(config.backbone, config.weights == "imagenet")
    if config.weights in ("", "imagenet"):
        return backbone
    path = weights.check_file(config.weights)
    state = weights.read_file(path)
    if isinstance(backbone, TorchvisionBackbone):
        weights.load(backbone.trunk, state, path, unused=backbone.unused)
    elif isinstance(backbone, BvlcGooglenet):
        # Caffe parts the names of layers by slashes; "loss" begins the names of its three classifiers.
        state = {name.replace("/", "."): tensor for name, tensor in state.items()}
        weights.load(backbone, state, path, unused=("loss",))
    else:
        weights.load(backbone, state, path)
    return backbone
