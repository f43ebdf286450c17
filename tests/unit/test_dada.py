"""DADA against its equations as loops: the discriminators' losses, the mixed domain, the alternation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.config import Config, DadaConfig, ModelConfig, RuntimeConfig
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.methods import Points, build_method
from dist_plm.methods.dada import DataAugmentedDomainAdaptation, Draws
from dist_plm.model.discriminator import Discriminator
from tests import baselines_oracle as oracle

CPU = torch.device("cpu")

POINTS, DIM, CLASSES = 18, 5, 6
CONFIG = Config(
    seed=4,
    model=ModelConfig(dim=DIM),
    dada=DadaConfig(proxy_anchor=0.3, balance=0.4, mix=(2.0, 5.0), domain_hidden=7, category_hidden=[8, 4]),
)


def rows(seed: int, points: int = POINTS) -> Tensor:
    return normalize(torch.randn(points, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def dada(config: Config = CONFIG) -> DataAugmentedDomainAdaptation:
    method = build_method("dada", config, World(), CLASSES).double()
    assert isinstance(method, DataAugmentedDomainAdaptation)
    return method


def weights(discriminator: Discriminator) -> list[tuple[np.ndarray, ...]]:
    hidden = zip(discriminator.linears, discriminator.norms, strict=True)
    layers = [(linear.weight, norm.weight, norm.bias) for linear, norm in hidden]
    layers.append((discriminator.scores.weight, discriminator.scores.bias))
    return [tuple(each.detach().numpy() for each in layer) for layer in layers]


def factors(draws: Draws, method: DataAugmentedDomainAdaptation) -> list[np.ndarray]:
    uniform = draws.of(2)
    dropout = method.config.dada.dropout
    return [(uniform(w).numpy() >= dropout) / (1 - dropout) for w in method.config.dada.category_hidden]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_terms_are_those_of_the_loops(dropout: float) -> None:
    method = dada(replace(CONFIG, dada=replace(CONFIG.dada, dropout=dropout)))
    for norm in (*method.discriminators["domain"].norms, *method.discriminators["category"].norms):
        norm.weight.data, norm.bias.data = torch.rand_like(norm.weight) + 0.5, torch.rand_like(norm.bias)
    x, p, y = rows(0), rows(1), torch.arange(POINTS) % CLASSES
    mixed = 0.7 * x + 0.3 * p
    found = method._judged(x, mixed, p, y, Draws(4, 2, Shares.even(POINTS, 1), 0, x.device))
    keep = factors(Draws(4, 2, Shares.even(POINTS, 1), 0, x.device), method) if dropout else [None, None]
    networks = (weights(method.discriminators["domain"]), weights(method.discriminators["category"]))
    expected = oracle.dada_terms(*(each.numpy() for each in (x, mixed, p)), y.tolist(), *networks, keep)
    np.testing.assert_allclose([float(each) for each in found], expected, rtol=1e-9)


def test_objective_after_the_warm_up_and_within_it() -> None:
    method, x, y = (
        dada(replace(CONFIG, dada=replace(CONFIG.dada, dropout=0.0))),
        rows(0),
        torch.arange(POINTS) % CLASSES,
    )
    before = [parameter.clone() for parameter in method.discriminators.parameters()]
    loss = method(Points(x, x, 1, labels=y, step=5, epoch=1))
    after = weights(method.discriminators["domain"]), weights(method.discriminators["category"])
    changed = [not torch.equal(a, b) for a, b in zip(before, method.discriminators.parameters(), strict=True)]
    assert all(changed)
    p = method.proxies().detach()[y]
    u = np.random.Generator(np.random.Philox(key=[4, 3], counter=[0, 0, 0, 5])).beta(2.0, 5.0, size=POINTS)[:, None]
    mixed = (1 - u) * x.numpy() + u * p.numpy()
    domain, category, discrepancy = oracle.dada_terms(x.numpy(), mixed, p.numpy(), y.tolist(), *after, [None, None])
    options = (0.1, 32.0, 32.0)
    base = oracle.proxy_anchor_loss(x.numpy(), y.tolist(), method.proxies.raw.detach().numpy(), *options)
    np.testing.assert_allclose(
        float(loss.share.detach()), 0.3 * base + 0.4 * (category + discrepancy) - 0.6 * domain, rtol=1e-9
    )
    assert float(method(Points(x, x, 1, labels=y, step=5, epoch=0)).share.detach()) == pytest.approx(
        0.3 * base, rel=1e-12
    )


def test_discriminators_learn_what_the_network_then_fights() -> None:
    """With the network held, the discriminators' objective falls; the network's gradient raises L_U."""
    method = dada(replace(CONFIG, dada=replace(CONFIG.dada, dropout=0.0, lr=5e-3)))
    x, y = normalize(rows(0) + 3 * torch.eye(DIM)[0]), torch.arange(POINTS) % CLASSES
    z = x.clone().requires_grad_()
    terms = [method(Points(z, z, 1, labels=y, step=step, epoch=1)).terms for step in range(60)]
    start, end = (np.mean([float(each["domain"]) for each in part]) for part in (terms[:10], terms[-10:]))
    assert end < 0.7 * start < 0.7 * 3 * np.log(3) * 1.5
    loss = method(Points(z, z, 1, labels=y, step=60, epoch=1))
    assert all(parameter.grad is None for parameter in method.discriminators.parameters())
    loss.share.backward()
    assert z.grad is not None and z.grad.norm() > 0
    assert all(parameter.grad is None for parameter in method.discriminators.parameters()), (
        "the network's step trained them"
    )


class Rounding(World):
    """A world whose sums end in another last bit, as those of another number of ranks do."""

    def sum(self, value: Tensor) -> Tensor:
        return value * (1 + 2**-52)


def test_discriminators_are_reproducible() -> None:
    config = replace(CONFIG, runtime=RuntimeConfig(strategy="reproducible"))
    x, y, found = rows(0), torch.arange(POINTS) % CLASSES, []
    for world in (World(), Rounding()):
        method = build_method("dada", config, world, CLASSES).double()
        for step in range(3):
            method(Points(x, x, 1, labels=y, step=step))
        found.append([parameter.detach() for parameter in method.discriminators.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_masks_of_a_row_do_not_depend_on_its_rank() -> None:
    alone = Draws(1, 2, Shares.even(POINTS, 1), 0, CPU).of(3)(4).reshape(3, POINTS, 4)
    parts = [Draws(1, 2, Shares.even(POINTS, 3), r, CPU).of(3)(4).reshape(3, 6, 4) for r in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), alone, rtol=0, atol=0)
    again = Draws(1, 2, Shares.even(POINTS, 1), 0, CPU).of(3)
    assert not torch.equal(again(4), again(4)) and not torch.equal(
        Draws(1, 3, Shares.even(POINTS, 1), 0, CPU).of(3)(4), alone.reshape(-1, 4)
    )


def test_what_moves_by_itself_is_in_the_state() -> None:
    method, x, y = dada(), rows(0), torch.arange(POINTS) % CLASSES
    method(Points(x, x, 1, labels=y))
    names = {name for name, value in method.state().items() if getattr(value, "local", value).abs().sum() > 0}
    kinds = ("running_mean", "num_batches_tracked", "optimiser.category.scores.weight.exp_avg_sq", "proxies.raw")
    assert all(any(kind in name for name in names) for kind in kinds), names
