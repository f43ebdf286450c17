"""Which pretrained network to start from: the one that is given, one that is on this machine, or one to download."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import torch

from dist_plm.errors import UserError
from dist_plm.model.backbones import OWN, TIMM

# In order of preference. Measured here are only bvlc_googlenet and efficientnet_lite0 (benchmarks/); the order of the
# others follows their published retrieval and ImageNet results.
TIMM_NETWORKS = (
    "vit_small_patch14_dinov2.lvd142m",
    "convnextv2_tiny.fcmae_ft_in22k_in1k",
    "tf_efficientnet_lite0.in1k",
    "resnet50.a1_in1k",
)
TORCHVISION_NETWORKS = ("convnext_tiny", "efficientnet_b0", "resnet50", "resnet18", "mobilenet_v3_large")
INSTALL = "" if find_spec("timm") else "install timm (pip install 'dist_plm[timm]') and "
BETTER = f"for better results {INSTALL}copy the weights of a pretrained network here: docs/fit.md"


@dataclass(frozen=True)
class Start:
    """A network and its weights.

    Args:
        backbone: `model.backbone`.
        weights: `model.weights`; empty: random.
        why: For people.
    """

    backbone: str
    weights: str
    why: str


def start_from(backbone: str, weights: str) -> Start:
    """The network to start from.

    Args:
        backbone: As given; empty: to be chosen.
        weights: As given; empty: to be found.

    Raises:
        UserError: a file of weights does not tell which network it is of.
    """
    if weights and weights not in ("imagenet", "pretrained") and not backbone:
        return Start(network_of(Path(weights)), weights, "by the name of the file of weights")
    if backbone and (weights or backbone in OWN or ":" in backbone):
        return Start(backbone, weights, "as given")
    if backbone:
        return Start(backbone, "pretrained" if backbone.startswith(TIMM) else "imagenet", "as given, with its weights")
    return _on_this_machine() or _downloaded() or Start("small", "", "no pretrained weights found")


def network_of(file: Path) -> str:
    """The network whose weights a file holds, by its name: timm's, torchvision's, or bvlc_googlenet.

    Raises:
        UserError: the name tells nothing.
    """
    stem = re.sub(r"[^a-z0-9]+", "_", file.stem.lower())
    names = {name: name for name in OWN if name != "small"}
    if find_spec("timm"):
        import timm

        names |= {name: f"{TIMM}{name}" for name in timm.list_models()}
    from dist_plm.model.torchvision_backbone import supported

    names |= {name: name for name in supported()}  # of a network that both have, torchvision's files are more common
    fits = [name for name in names if stem == name or stem.startswith(f"{name}_")]
    if not fits:
        raise UserError(f"{file} has a name of no known network: set --model.backbone too")
    return names[max(fits, key=len)]


def _on_this_machine() -> Start | None:
    for name in TIMM_NETWORKS if find_spec("timm") else ():
        if _is_cached(name):
            return Start(f"{TIMM}{name}", "pretrained", "best of the weights in the cache of this machine")
    from torchvision.models import get_model_weights

    for name in TORCHVISION_NETWORKS:
        url = next(iter(get_model_weights(name))).url
        if (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file():
            return Start(name, "imagenet", "best of the weights in the cache of this machine")
    return None


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    from dist_plm.model.timm_backbone import timm_settings

    repository = timm_settings(name)["hf_hub_id"]
    files = ("model.safetensors", "pytorch_model.bin")
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, each), str) for each in files)


def _downloaded() -> Start | None:
    """The preferred network of timm, if it can be downloaded now."""
    if not find_spec("timm"):
        return None
    from dist_plm.model.timm_backbone import TimmBackbone

    try:
        TimmBackbone(TIMM_NETWORKS[0], pretrained=True, pooling="cls")
    except UserError:
        return None
    return Start(f"{TIMM}{TIMM_NETWORKS[0]}", "pretrained", "downloaded, and kept in the cache of this machine")
