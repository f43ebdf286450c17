"""Networks of timm without their classifiers: convolutional maps, or the tokens of transformers.

timm takes seconds to import, so this module is only imported for a backbone `timm/NAME`.
"""

import contextlib
import os
import socket
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from dist_plm.errors import UserError
from dist_plm.model.dropout import disable_dropout
from dist_plm.model.pixels import Pixels

PREFIX = "timm/"


class TimmNeck(nn.Module):
    """Output of a timm network -> a map [b, C, h, w], or tokens [b, n, C] of which the first may be a summary.

    Args:
        network: A timm network; its attention pooling, if any, is moved here.
        pooled: Whether the output of attention pooling is needed.
    """

    def __init__(self, network: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.prefix = int(getattr(network, "num_prefix_tokens", 0) or 0)
        self.class_token = self.prefix > 0 and (
            getattr(network, "cls_token", None) is not None or getattr(network, "has_class_token", False)
        )
        attention = getattr(network, "attn_pool", None)
        self.pool: nn.Module | None = attention if pooled and not self.class_token else None
        self.summary = self.class_token or attention is not None

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if self.channels_last else features
        if features.ndim == 2:
            return features
        patches = features[:, self.prefix :]
        if self.class_token:
            return torch.cat([features[:, :1], patches], dim=1) if self.prefix > 1 else features
        if self.pool is not None:
            return torch.cat([self.pool(patches)[:, None], patches], dim=1)
        return patches


class TimmBackbone(nn.Module):
    """A network of timm that takes pixels in 0-255, with the mean and deviation of its `pretrained_cfg`.

    Transformers take any image whose sides are multiples of a patch: positions are interpolated. Registers are dropped.

    Args:
        name: As timm has it, with or without the tag of its weights.
        pretrained: Load timm's own weights, downloaded if necessary.
        pooling: As `ModelConfig.pooling`; unused attention pooling is removed.

    Attributes:
        features: C.
        summary: Whether the first token is the class token, or the output of attention pooling.
        classifier: Prefixes of the names of classifier weights.
        origin: The tag of the downloaded weights; empty without.

    Raises:
        UserError: The download failed.
    """

    def __init__(self, name: str, *, pretrained: bool, pooling: str) -> None:
        super().__init__()
        settings = timm_settings(name)
        self.net = _create(name, settings, pretrained=pretrained)
        self.origin = f"weights {settings['hf_hub_id'] or name}" if pretrained else ""
        disable_dropout(self.net)
        self.pixels = Pixels([255 * value for value in settings["mean"]], [255 * value for value in settings["std"]])
        self.neck = TimmNeck(self.net, pooled=pooling in ("cls", "cls_avg"))
        self.features: int = self.net.num_features  # type: ignore[assignment]
        self.summary = self.neck.summary
        heads = settings["classifier"] or ()
        self.classifier = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))

    def body(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> what the neck takes."""
        return self.net.forward_features(self.pixels(images))  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, C, h', w'] or [b, n, C]."""
        return self.neck(self.body(images))

    def checkpointed(self) -> None:
        """Enable activation checkpointing.

        Raises:
            UserError: timm has no activation checkpointing for this network.
        """
        try:
            self.net.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError, NotImplementedError) as error:
            raise UserError("model.checkpointing: timm does not support it for this backbone; disable it") from error


def check_timm(backbone: str, weights: str) -> None:
    """Raise UserError if timm is not installed, or lacks the network or its weights."""
    if not find_spec("timm"):
        raise UserError(f"model.backbone {backbone} needs timm: pip install -e '.[timm]'")
    import timm

    name = backbone.removeprefix(PREFIX)
    if not timm.is_model(name.partition(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(PREFIX + entry for entry in near)}?" if near else ""
        raise UserError(f"model.backbone: timm {timm.__version__} has no network '{name}'{hint}")
    settings = timm_settings(name)
    if weights == "pretrained" and not (settings["hf_hub_id"] or settings["url"]):
        raise UserError(f"model.weights: timm has no pretrained weights of {name}; leave it empty or name a file")


def timm_settings(name: str) -> dict[str, Any]:
    """The `pretrained_cfg` of a network: mean, std, interpolation, input_size, crop_pct, classifier, hf_hub_id, ..."""
    import timm

    stem, _, tag = name.removeprefix(PREFIX).partition(".")
    try:
        settings = timm.get_pretrained_cfg(stem + (f".{tag}" if tag else ""))
    except RuntimeError:
        settings = None
    if settings is None:
        if not tag:
            raise UserError(f"model.backbone: timm has no preprocessing settings for {stem}")
        tags = [pretrained.partition(".")[2] for pretrained in timm.list_pretrained(f"{stem}.*")]
        raise UserError(f"model.backbone: timm's {stem} has no weights '{tag}', only: {', '.join(tags) or 'none'}")
    origin = {"hf_hub_id": settings.hf_hub_id, "url": settings.url, "classifier": settings.classifier}
    return settings.to_dict() | origin


def interpolation(name: str) -> Literal["bilinear", "bicubic"]:
    """The resize filter of the network's pretraining; other filters of Pillow count as bicubic."""
    return "bilinear" if timm_settings(name)["interpolation"] == "bilinear" else "bicubic"


def pools_by_token(name: str) -> bool:
    """Whether the network was pretrained with its class token, or attention pooling that `TimmNeck` knows, as the image
    feature. The attention pooling of a convolutional network, as of CLIP's ResNet, belongs to its head."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(name.removeprefix(PREFIX), num_classes=0)
    by_token = getattr(network, "global_pool", "") in ("token", "map")
    return by_token and TimmNeck(network, pooled=True).summary


def _create(name: str, settings: dict[str, Any], *, pretrained: bool) -> nn.Module:
    import timm

    if pretrained:
        _check_network(name, settings)
    attempts: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {})
    for options in attempts:  # supported by the ViT family only
        with _quiet():
            try:
                return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
            except TypeError:
                if not options:
                    raise
            except (OSError, RuntimeError) as error:
                if not pretrained:
                    raise
                raise _offline(name, settings, type(error).__name__) from error
    raise AssertionError


def _check_network(name: str, settings: dict[str, Any]) -> None:
    """Raise UserError at once if weights must be downloaded without network access: the library retries for a
    minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    repository = settings["hf_hub_id"]
    if not repository or any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    if constants.HF_HUB_OFFLINE:
        raise _offline(name, settings, "HF_HUB_OFFLINE is set")
    host = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT)).hostname or ""
    if any(key.lower() == "https_proxy" for key in os.environ):
        return  # the proxy resolves the host
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise _offline(name, settings, error.strerror or "no network") from error


def _offline(name: str, settings: dict[str, Any], reason: str) -> UserError:
    place = settings["url"] or f"https://huggingface.co/{settings['hf_hub_id']}/resolve/main/model.safetensors"
    return UserError(
        f"model.weights pretrained: cannot download the weights of {name} ({reason}). Download {place} elsewhere, copy "
        "the file to this machine and pass its path as --model.weights FILE"
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress the library's log of retries."""
    import logging

    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
