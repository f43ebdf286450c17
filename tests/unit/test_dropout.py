"""A network of one's own with dropout computes the same function in every pass of training, checkpointed or not."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from dist_plm.config import ModelConfig
from dist_plm.model import Encoder
from dist_plm.model.split import split

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255


class DropPath(nn.Module):
    """Stochastic depth as libraries other than torchvision have it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_prob = 0.5

    def forward(self, maps: Tensor) -> Tensor:
        return maps * (torch.rand(len(maps), 1, 1, 1) >= self.drop_prob) if self.training else maps


class Attention(nn.Module):
    """Attention over positions, with dropout of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mT.unflatten(2, maps.shape[2:])


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(8, 8, 3, padding=1), layer, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.last(self.layer(self.first(maps).relu()))


LAYERS = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout2d": lambda: nn.Dropout2d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "StochasticDepth": lambda: StochasticDepth(0.5, "row"),
    "DropPath": DropPath,
    "Attention": Attention,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_training_is_a_function_of_the_images(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), *(Block(LAYERS[kind]()) for _ in range(2)))
    encoder = Encoder(ModelConfig(dim=8), network=network, seed=0).train()
    assert torch.equal(encoder(IMAGES), encoder(IMAGES))


def test_a_checkpointed_block_has_the_gradient_of_a_plain_one() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Block(nn.Dropout(0.5)), Block(nn.Dropout(0.5)))
        model = ModelConfig(dim=8, trainable="blocks:1", checkpointing=checkpointing)
        encoder = Encoder(model, network=network, seed=0)
        frozen, trained = split(encoder, model, 16).parts(encoder)
        z = trained.train()(frozen(IMAGES))
        torch.rand(1)  # a recomputed mask would be another one
        z[:, 0].sum().backward()
        found.append(network[2].last.weight.grad)
    assert found[0].norm() > 0 and torch.equal(*found)
