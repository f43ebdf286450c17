"""Backbones by name: `bvlc_googlenet`, `small`, a model of torchvision, `timm/NAME`, `package.module:function`."""

import re
from difflib import get_close_matches
from importlib.util import find_spec

from torch import nn

from dist_plm.config import ModelConfig
from dist_plm.errors import UserError
from dist_plm.model import weights
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
from dist_plm.model.own_backbone import OwnBackbone, build_own, check_own, is_own
from dist_plm.model.small import Small

TIMM = "timm/"
DOWNLOADED = ("", "imagenet", "pretrained")  # weights that are not a file
OWN: dict[str, type[nn.Module]] = {"bvlc_googlenet": BvlcGooglenet, "small": Small}


def check_model(config: ModelConfig) -> None:
    """Checks the names in a config, without building or downloading anything.

    Raises:
        UserError: An unknown backbone, weights that this backbone does not have, or no such file.
    """
    timm = config.backbone.startswith(TIMM)
    if timm:
        from dist_plm.model.timm_backbone import check_timm

        check_timm(config.backbone, config.weights)
    elif is_own(config.backbone):
        check_own(config.backbone)
    elif config.backbone not in OWN:
        _check_name(config.backbone)
    _check_weights(config, timm=timm)


def _check_weights(config: ModelConfig, *, timm: bool) -> None:
    name, weights_name = config.backbone, config.weights
    if weights_name == "imagenet" and name == "bvlc_googlenet":
        raise UserError(
            "model.weights: bvlc_googlenet's weights are not available for torch, so 'imagenet' is not supported. "
            "Download bvlc_googlenet.caffemodel of the BVLC model zoo and use that file "
            "(github.com/BVLC/caffe/tree/master/models/bvlc_googlenet)"
        )
    if weights_name == "imagenet" and (name in OWN or is_own(name)):
        raise UserError(f"model.weights: {name} has no weights of ImageNet; leave it empty or name a file")
    if weights_name == "imagenet" and timm:
        raise UserError(f"model.weights: 'imagenet' is for torchvision's networks; {name} has 'pretrained' ones")
    if weights_name == "pretrained" and not timm:
        raise UserError(f"model.weights: 'pretrained' is for the networks of timm (timm/NAME), not for {name}")
    if weights_name not in DOWNLOADED:
        weights.check_file(weights_name)


def build_backbone(config: ModelConfig, network: nn.Module | None = None) -> nn.Module:
    """A backbone with its weights; random ones are drawn from torch's default generator.

    Args:
        config: Which backbone and which weights.
        network: One's own, in place of `config.backbone`.

    Returns:
        A module with `features`, the channels C, that takes RGB images [b, 3, h, w] in 0-255, uint8 or float, and
        returns its last map [b, C, h', w'], or tokens [b, n, C] (see Pooling). `origin` says where its weights are
        from, where there is something to say.

    Raises:
        UserError: As check_model; a failed download; a file that fits another network.
    """
    if network is None:
        check_model(config)
    backbone, loaded, unused = _parts(config) if network is None else _wrapped(network)
    if config.weights not in DOWNLOADED:
        path = weights.check_file(config.weights)
        # Caffe parts the names of layers by slashes; no other file has them.
        state = {name.replace("/", "."): tensor for name, tensor in weights.read_file(path).items()}
        state, prefix = weights.without_prefix(state, loaded.state_dict())
        weights.load(loaded, state, path, unused=unused)
        if prefix:
            backbone.origin = f"weights {path}: names without their prefix '{prefix}'"  # type: ignore[assignment]
    return backbone


# Of a backbone: itself, the module that a file of weights is of, and how the names begin that it has no use for.
Parts = tuple[nn.Module, nn.Module, tuple[str, ...]]


def _parts(config: ModelConfig) -> Parts:
    if config.backbone.startswith(TIMM):
        from dist_plm.model.timm_backbone import TimmBackbone

        timm = TimmBackbone(
            config.backbone.removeprefix(TIMM), pretrained=config.weights == "pretrained", pooling=config.pooling
        )
        return timm, timm.net, timm.classifier
    if is_own(config.backbone):
        return _wrapped(build_own(config.backbone))
    return _own(config.backbone) if config.backbone in OWN else _torchvision(config)


def _wrapped(network: nn.Module) -> Parts:
    return OwnBackbone(network), network, ()


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
        if timm_name := _in_timm(name):
            raise UserError(f"model.backbone: no backbone '{name}'; timm has one: --model.backbone {timm_name}")
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        raise UserError(
            f"model.backbone: no backbone '{name}'"
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + f" There are {', '.join(OWN)}, torchvision's {', '.join(FAMILIES)} (all sizes), and those of timm as "
            "timm/NAME"
        )


def _in_timm(name: str) -> str:
    """The name in timm of a network that torchvision lacks; empty if timm lacks it too."""
    if not find_spec("timm"):
        return ""
    import timm

    # DINOv2's own names: dinov2_vits14, dinov2_vitb14_reg.
    size = re.fullmatch(r"dinov2_vit([sblg])14(_reg)?", name)
    if size:
        sizes = {"s": "small", "b": "base", "l": "large", "g": "giant"}
        name = f"vit_{sizes[size[1]]}_patch14{'_reg4' if size[2] else ''}_dinov2"
    return f"{TIMM}{name}" if timm.is_model(name) else ""
