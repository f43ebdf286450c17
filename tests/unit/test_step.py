"""One step of the learner against its parts: what the average averages, and which rate moves what."""

import pytest
import torch
from torch import Tensor

from dist_plm.config import BatchConfig, Config, ManifoldConfig, ModelConfig, OptimiserConfig, ProxiesConfig
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.model.digest import digest
from dist_plm.training.learner import Learner, phases

BATCH = BatchConfig(groups=2, group_size=3)
SGD = OptimiserConfig(name="sgd", lr=0.1)


def learner(backbone: str = "small", lr_scale: float = 1.0) -> Learner:
    config = Config(
        model=ModelConfig(backbone=backbone, dim=8, momentum=0.9, batch_norm="per_rank"),
        batch=BATCH,
        manifold=ManifoldConfig(dim=2, k=4),
        proxies=ProxiesConfig(count=3, lr_scale=lr_scale),
        optimiser=SGD,
    )
    return Learner(config, World(), phases(config)[-1])


def step(learner: Learner) -> None:
    random = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (2 * BATCH.images, 3, 32, 32), dtype=torch.uint8, generator=random)
    learner.step(Batch(0, torch.arange(BATCH.images), views), 0, 10)


def numbers(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.double().clone() for name, value in network.state_dict().items()}


def test_the_momentum_encoder_averages_what_the_optimiser_left() -> None:
    """phi_1 = .9 theta_0 + .1 theta_1 (equation 1) of weights and of running statistics; counters are theta_1's."""
    mine = learner("resnet18")
    before = numbers(mine.student)
    step(mine)
    after, averaged = numbers(mine.student), numbers(mine.teacher.encoder)
    for name in ("backbone.trunk.conv1.weight", "backbone.trunk.bn1.running_mean", "backbone.trunk.bn1.running_var"):
        assert (after[name] - before[name]).norm() > 1e-4 * before[name].norm(), f"{name} has to move to tell"
    for name, value in averaged.items():
        expected = after[name] if "num_batches" in name else 0.9 * before[name] + 0.1 * after[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5, msg=name)


def test_equal_weights_have_one_digest() -> None:
    """Embeddings are stored by the digest of the weights: before the first step those of the student serve for both."""
    mine = learner("resnet18")
    assert digest(mine.whole("teacher")) == digest(mine.whole("student"))
    step(mine)
    assert digest(mine.whole("teacher")) != digest(mine.whole("student"))


def test_proxies_have_a_rate_of_their_own() -> None:
    """The first step of SGD is -lr g: three times the rate is three times the way, for the proxies and nothing else."""
    moved = []
    for scale in (1.0, 3.0):
        mine = learner(lr_scale=scale)
        before = [value.detach().clone() for value in (*mine.method.parameters(), *mine.student.parameters())]
        step(mine)
        after = (*mine.method.parameters(), *mine.student.parameters())
        moved.append([(now - then).detach() for now, then in zip(after, before, strict=True)])
    own = len(list(mine.method.parameters()))
    assert own == 2
    for number, (once, thrice) in enumerate(zip(*moved, strict=True)):
        assert once.norm() > 0
        assert float(thrice.norm() / once.norm()) == pytest.approx(3 if number < own else 1, rel=1e-3)
