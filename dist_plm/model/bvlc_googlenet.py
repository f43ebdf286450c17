"""The Caffe GoogLeNet of this literature: no batch norm, local response norm, 5x5 branches, BGR pixels.

torchvision's `googlenet` is another network (batch norm, 3x3 in place of 5x5) with other weights.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import conv2d, max_pool2d, relu

from dist_plm.model.pixels import Pixels


def _response(maps: Tensor, band: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised maps, r = s^-1/2 and s^-3/4 = r sqrt(r), with s = 1 + band * maps^2; all [b, C, h, w]."""
    root = conv2d(maps * maps, band, one).rsqrt_()
    factor = root.sqrt().mul_(root)
    return maps * factor, root, factor


class _Response(torch.autograd.Function):
    """Keeps r and s^-3/4 for the backward, which then needs no power: with y_i = x_i s_i^-3/4,

    dL/dx_i = g_i s_i^-3/4 - 3/2 x_i sum_j band_ij g_j x_j s_j^-7/4,    s^-7/4 = s^-3/4 r^2,   band symmetric.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, band: Tensor, one: Tensor) -> Tensor:
        normalised, root, factor = _response(maps, band, one)
        ctx.save_for_backward(maps, root, factor, band)
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        maps, root, factor, band = ctx.saved_tensors
        direct = gradients[0] * factor
        through_sum = conv2d((direct * maps).mul_(root).mul_(root), band)
        return direct.addcmul_(maps, through_sum, value=-1.5), None, None


class LocalResponseNorm(nn.Module):
    """x / (1 + alpha / n * sum of x^2 over the n nearest channels)^(3/4), with Caffe's n = 5 and alpha = 1e-4.

    The sum is a 1x1 convolution with a banded matrix, on a CPU 6 times as fast as the 3-D pooling of torch's own layer.
    """

    band: Tensor
    one: Tensor

    def __init__(self, channels: int, n: int = 5, alpha: float = 1e-4) -> None:
        super().__init__()
        index = torch.arange(channels)
        near = (index[:, None] - index).abs() <= n // 2
        self.register_buffer("band", (near * (alpha / n))[:, :, None, None], persistent=False)
        self.register_buffer("one", torch.ones(channels), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, C, h, w], under bf16 autocast in bf16.

        Under fp16 autocast in fp32: activations above 256 have squares beyond fp16's range.
        """
        device = maps.device.type
        lower = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        dtype = torch.bfloat16 if lower else self.band.dtype
        operands = (maps.to(dtype), self.band.to(dtype), self.one.to(dtype))
        with torch.autocast(device, enabled=False):
            if torch.is_grad_enabled() and maps.requires_grad:
                return _Response.apply(*operands)
            return _response(*operands)[0]  # exporters can't trace a custom function


class Inception(nn.Module):
    """Four parallel branches over the same map: 1x1, 3x3, 5x5, and 1x1 after a max pool; concatenated.

    Args:
        channels: Of the input.
        widths: Channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = widths
        self.add_module("1x1", nn.Conv2d(channels, one, 1))
        self.add_module("3x3_reduce", nn.Conv2d(channels, three_reduce, 1))
        self.add_module("3x3", nn.Conv2d(three_reduce, three, 3, padding=1))
        self.add_module("5x5_reduce", nn.Conv2d(channels, five_reduce, 1))
        self.add_module("5x5", nn.Conv2d(five_reduce, five, 5, padding=2))
        self.add_module("pool_proj", nn.Conv2d(channels, pool, 1))
        self.features = one + three + five + pool

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] -> [b, features, h, w]."""
        layer = self.get_submodule
        branches = [
            layer("1x1")(maps),
            layer("3x3")(relu(layer("3x3_reduce")(maps))),
            layer("5x5")(relu(layer("5x5_reduce")(maps))),
            layer("pool_proj")(max_pool2d(maps, 3, stride=1, padding=1)),
        ]
        return relu(torch.cat(branches, dim=1))


class BvlcGooglenet(nn.Module):
    """GoogLeNet of the BVLC model zoo up to inception_5b; without its classifiers.

    The layers bear their Caffe names, with a dot where Caffe has a slash. Random weights follow Caffe's fillers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Pixels(mean=(104.0, 117.0, 123.0), std=(1.0,))
        self.conv1 = nn.ModuleDict({"7x7_s2": nn.Conv2d(3, 64, 7, stride=2, padding=3)})
        self.norm1 = LocalResponseNorm(64)
        self.conv2 = nn.ModuleDict({"3x3_reduce": nn.Conv2d(64, 64, 1), "3x3": nn.Conv2d(64, 192, 3, padding=1)})
        self.norm2 = LocalResponseNorm(192)
        self.inception_3a = Inception(192, (64, 96, 128, 16, 32, 32))
        self.inception_3b = Inception(256, (128, 128, 192, 32, 96, 64))
        self.inception_4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self.inception_4b = Inception(512, (160, 112, 224, 24, 64, 64))
        self.inception_4c = Inception(512, (128, 128, 256, 24, 64, 64))
        self.inception_4d = Inception(512, (112, 144, 288, 32, 64, 64))
        self.inception_4e = Inception(528, (256, 160, 320, 32, 128, 128))
        self.inception_5a = Inception(832, (256, 160, 320, 32, 128, 128))
        self.inception_5b = Inception(832, (384, 192, 384, 48, 128, 128))
        self.features = self.inception_5b.features
        self.apply(_fill)

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, 1024, h / 32, w / 32], rounded up or down."""
        maps = self.pixels(images.flip(1))
        maps = _pool(relu(self.conv1["7x7_s2"](maps)))
        maps = relu(self.conv2["3x3_reduce"](self.norm1(maps)))
        maps = _pool(self.norm2(relu(self.conv2["3x3"](maps))))
        maps = _pool(self.inception_3b(self.inception_3a(maps)))
        maps = self.inception_4c(self.inception_4b(self.inception_4a(maps)))
        maps = _pool(self.inception_4e(self.inception_4d(maps)))
        return self.inception_5b(self.inception_5a(maps))


def _pool(maps: Tensor) -> Tensor:
    # Caffe rounds the size of a pooled map up, so that 112 becomes 56 and not 55.
    return max_pool2d(maps, 3, stride=2, ceil_mode=True)


def _fill(module: nn.Module) -> None:
    """Caffe's "xavier" is uniform within sqrt(3 / fan_in), without the gain of a ReLU; biases start at .2."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]
