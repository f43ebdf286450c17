"""Classification models of torchvision without their classifiers, up to the last map before global pooling."""

import contextlib
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from dist_plm.errors import UserError
from dist_plm.model.dropout import disable_dropout
from dist_plm.model.pixels import Pixels

# Prefix of a family's names -> node of its last map [b, C, h, w] in torchvision's graph.
LAST_MAP = {
    "alexnet": "features",
    "convnext": "features",
    "densenet": "relu",
    "efficientnet": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "mnasnet": "layers",
    "mobilenet": "features",
    "regnet": "trunk_output",
    "resnet": "layer4",
    "resnext": "layer4",
    "shufflenet": "conv5",
    "squeezenet": "features",
    "swin": "permute",
    "vgg": "features",
    "wide_resnet": "layer4",
}
FAMILIES = (*LAST_MAP, "vit")
# Leaf modules of the traced graph, so that a network can be split between them (model.trainable).
BLOCKS = [
    models.convnext.CNBlock, models.efficientnet.FusedMBConv, models.efficientnet.MBConv,
    models.mobilenetv2.InvertedResidual, models.mobilenetv3.InvertedResidual, models.regnet.ResBottleneckBlock,
    models.resnet.BasicBlock, models.resnet.Bottleneck, models.swin_transformer.SwinTransformerBlock,
]  # fmt: skip


class ClassToken(nn.Module):
    """A vision transformer up to its class token, for images of any size: positions are interpolated."""

    def __init__(self, vit: models.VisionTransformer) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.encoder = vit.conv_proj, vit.class_token, vit.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [b, 3, h, w] -> class token and patches [b, 1 + n, C]."""
        patches = self.conv_proj(images)
        grid = patches.shape[-2:]
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).mT], dim=1)
        return self.encoder.ln(self.encoder.layers(tokens + self._positions(grid)))

    def _positions(self, grid: torch.Size) -> Tensor:
        positions = self.encoder.pos_embedding
        side = round((positions.shape[1] - 1) ** 0.5)
        if (side, side) == tuple(grid):
            return positions
        square = positions[:, 1:].mT.unflatten(2, (side, side))
        resized = nn.functional.interpolate(square, tuple(grid), mode="bicubic", align_corners=True)
        return torch.cat([positions[:, :1], resized.flatten(2).mT], dim=1)


class TorchvisionNeck(nn.Module):
    """Output of the trunk -> a map: a class token becomes a map of one position."""

    def forward(self, output: Tensor) -> Tensor:
        return output[:, 0, :, None, None] if output.ndim == 3 else output


class TorchvisionBackbone(nn.Module):
    """A network of torchvision that takes pixels in 0-255 and returns a map.

    Transformers return their class token as a map of one position, where all poolings are the same up to a factor.

    Args:
        name: As in `torchvision.models.list_models(module=torchvision.models)`, of one of FAMILIES.
        imagenet: Load torchvision's weights, the first version listed, which published work uses.

    Raises:
        UserError: The download failed.
    """

    def __init__(self, name: str, imagenet: bool) -> None:
        super().__init__()
        published = next(iter(models.get_model_weights(name)))
        full = _model(name, published, imagenet)
        disable_dropout(full)
        if isinstance(full, models.VisionTransformer):
            self.trunk: nn.Module = ClassToken(full)
        else:
            node = next(node for family, node in LAST_MAP.items() if name.startswith(family))
            # It warns about auxiliary classifiers, which are removed with the classifier.
            tracer = {"leaf_modules": BLOCKS}
            traced = create_feature_extractor(full, {node: "map"}, tracer_kwargs=tracer, suppress_diff_warning=True)
            self.trunk = traced
        self.neck = TorchvisionNeck()
        self.summary, self.patches = isinstance(full, models.VisionTransformer), False
        self.pixels = _pixels(name, published)
        kept = dict(self.trunk.named_children())
        self.unused = tuple(f"{name}." for name, _ in full.named_children() if name not in kept)
        self.features = self._count_features()

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, C, h', w']."""
        features = self.trunk(self.pixels(images))
        return self.neck(features["map"] if isinstance(features, dict) else features)

    @torch.no_grad()
    def _count_features(self) -> int:
        self.eval()
        features = self(torch.zeros(1, 3, 96, 96)).shape[1]
        self.train()
        return features


def supported() -> list[str]:
    """Names of the models that can be a backbone."""
    return [name for name in models.list_models(module=models) if name.startswith(FAMILIES)]


def _model(name: str, published: models.WeightsEnum, imagenet: bool) -> nn.Module:
    settings: dict = {}
    if name.startswith("vit"):
        settings["image_size"] = published.meta["min_size"][0]
    if name in ("googlenet", "inception_v3") and not imagenet:
        settings["init_weights"] = True
    try:
        model = models.get_model(name, weights=published if imagenet else None, **settings)
    except (URLError, OSError, RuntimeError) as error:
        if not imagenet:
            raise
        raise UserError(
            f"model.weights: could not download the weights of {name} ({error}). Download {published.url} elsewhere, "
            f"copy it to {torch.hub.get_dir()}/checkpoints, and rerun the command"
        ) from error
    with contextlib.suppress(AttributeError):
        model.transform_input = False
    return model


def _pixels(name: str, published: models.WeightsEnum) -> Pixels:
    if name in ("googlenet", "inception_v3"):
        # Trained on -1..1, which torchvision reaches by `transform_input` after the usual normalisation.
        return Pixels(mean=(127.5,), std=(127.5,))
    preset = published.transforms()
    return Pixels([255 * value for value in preset.mean], [255 * value for value in preset.std])
