"""A small residual network for small images and one CPU core: 0.5 M parameters, GroupNorm, so that no statistic of a
batch enters and any number of ranks computes the same."""

from torch import Tensor, nn
from torch.nn.functional import relu

from dist_plm.model.pixels import Pixels


class Block(nn.Module):
    """Two 3x3 convolutions around an identity, normalised before each (pre-activation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, C, h, w]."""
        inner = self.conv1(relu(self.norm1(maps)))
        return maps + self.conv2(relu(self.norm2(inner)))


class Small(nn.Module):
    """Three stages of 32, 64 and 128 channels at a quarter, an eighth and a sixteenth of the image's side."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Pixels(mean=(127.5,), std=(63.75,))
        self.stem = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.down1 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.stage1 = Block(32)
        self.down2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.stage2 = Block(64)
        self.down3 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.stage3 = Block(128)
        self.norm = nn.GroupNorm(8, 128)
        self.neck = nn.ReLU()
        self.features = 128

    def forward(self, images: Tensor) -> Tensor:
        """RGB images [b, 3, h, w] in 0-255 -> [b, 128, ceil(h / 16), ceil(w / 16)]."""
        maps = self.stage1(self.down1(relu(self.stem(self.pixels(images)))))
        maps = self.stage2(self.down2(maps))
        maps = self.stage3(self.down3(maps))
        return self.neck(self.norm(maps))
