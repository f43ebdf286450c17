"""The contrastive losses against their equations as loops."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.config import Config, ManifoldConfig, WarmUpConfig
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from tests import baselines_oracle as oracle

IMAGES, VIEWS = 7, 3


def embeddings(seed: int, points: int = IMAGES * VIEWS) -> Tensor:
    return normalize(torch.randn(points, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def config(k: int = 4, temperature: float = 0.3) -> Config:
    return Config(manifold=ManifoldConfig(k=k), warm_up=WarmUpConfig(temperature=temperature))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_instance_discrimination_is_that_of_the_loops(temperature: float) -> None:
    z = embeddings(0)
    loss = build_method("instance", config(temperature=temperature), World())(Points(z, z, VIEWS))
    positives = [[i - i % VIEWS + (i + 1) % VIEWS] for i in range(len(z))]
    np.testing.assert_allclose(float(loss.share), oracle.contrast(z.numpy(), positives, temperature), rtol=1e-12)


@pytest.mark.parametrize("k", [1, 4, IMAGES * VIEWS - 1])
def test_neighbour_contrast_is_that_of_the_loops(k: int) -> None:
    z, x = embeddings(0), embeddings(1)
    loss = build_method("neighbour_contrast", config(k), World())(Points(z, x, VIEWS))
    positives = oracle.nearest(x.numpy(), k)
    np.testing.assert_allclose(float(loss.share), oracle.contrast(z.numpy(), positives, 0.3), rtol=1e-12)


def test_neighbour_contrast_is_instance_discrimination_where_the_nearest_is_the_other_view() -> None:
    z, x = embeddings(0, points=12), torch.eye(6, dtype=torch.float64).repeat_interleave(2, dim=0)
    both = [build_method(name, config(k=1), World())(Points(z, x, 2)) for name in ("instance", "neighbour_contrast")]
    torch.testing.assert_close(both[0].share, both[1].share)
