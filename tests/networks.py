"""Networks from outside of the project, as somebody who trains one of their own would write them."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Tokens(nn.Module):
    """A transformer like DINOv2: class token, four registers, layer scale, positions of the patches alone."""

    def __init__(self, width: int, depth: int, patch: int) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=2 * patch, patch_size=patch, embed_dim=width, depth=depth, num_heads=2, num_classes=0,
            reg_tokens=4, no_embed_class=True, init_values=0.1, dynamic_img_size=True,
        )  # fmt: skip
        self.num_prefix_tokens, self.num_features = 5, width

    def forward(self, images: Tensor) -> Tensor:
        return self.vit.forward_features(images)


def vit_16() -> nn.Module:
    return Tokens(16, 2, 8)


def vit_24() -> nn.Module:
    return Tokens(24, 3, 8)


def vit_32() -> nn.Module:
    return Tokens(32, 3, 4)


def no_network() -> object:
    return "none"


def broken() -> nn.Module:
    raise ValueError("no such size")


def pairs() -> nn.Module:
    class Pairs(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    return Pairs()


def colours() -> nn.Module:
    """Vectors: the mean colour."""

    class Colours(nn.Module):
        mean, std, num_features = (0.0,) * 3, (1.0,) * 3, 3

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    return Colours()


__all__ = ["Tokens", "broken", "colours", "no_network", "pairs", "vit_16", "vit_24", "vit_32"]
