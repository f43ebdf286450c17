"""Data-augmented domain adaptation (DADA; Ren et al., AAAI 2024): adversarial alignment of samples and proxies.

Supervised. Per batch the discriminators take a few steps on detached embeddings, then the network and the proxies take
one step against them, without gradient reversal.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softmax

from dist_plm.checkpoint.checkpoint import State
from dist_plm.config import Config
from dist_plm.distributed.shares import Shares
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.methods.base import Loss, Points
from dist_plm.methods.proxy_anchor import ProxyAnchor
from dist_plm.model.discriminator import Discriminator, Uniform
from dist_plm.parallel.optimiser import begun, state_by_name, update
from dist_plm.parallel.strategy.memory import FLOAT

SAMPLE, MIXED, PROXY = range(3)
DISCRIMINATOR_STEPS = 3  # before each step of the network, as in the published code


class DataAugmentedDomainAdaptation(ProxyAnchor):
    """Proxy-Anchor within an adversarial game over three domains, x, p_y and x_mix = (1 - u) x + u p_y.

    With U the domain discriminator, C the category discriminator, G points and u ~ Beta(a, b):

        L_U = CE(U(x), 0) + CE(U(x_mix), 1) + CE(U(p_y), 2)            L_C = 2 CE(C(x), y)
        L_d = (|softmax C(x)|_* - |softmax C(x_mix)|_*) / 2 G          nuclear norms of [G, classes]
        U and C minimise              (1 - r) L_U + r (L_C - L_d)
        network and proxies minimise  lambda L_PA + r (L_C + L_d) - (1 - r) L_U

    Interpretations: p are the proxies of the batch's labels, one per point; x and p have unit length, x_mix has not;
    the domains share batch statistics in a discriminator; the discriminators' rate is constant.

    Cross-entropies and their gradients are sums over rows, hence over ranks. The nuclear norms are over all rows,
    which every rank gathers, each with weight 1 / W. The discriminators are replicated: gradients are summed.
    """

    name = "dada"

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        super().check(config, world_size)
        if config.batch.locality:
            raise UserError("batch.locality changes dada's random numbers, which depend on batch positions: disable it")

    @classmethod
    def memory(cls, config: Config, classes: int, world_size: int) -> dict[str, float]:
        discriminators = {"discriminators, gradient and moments": 4 * _discriminator_weights(config, classes) * FLOAT}
        return super().memory(config, classes, world_size) | discriminators

    @classmethod
    def stored(cls, config: Config, classes: int) -> int:
        return super().stored(config, classes) + 3 * _discriminator_weights(config, classes) * FLOAT

    def __init__(self, config: Config, world: World, classes: int = 1) -> None:
        super().__init__(config, world, classes)
        settings, dim = config.dada, config.model.dim
        self.discriminators = nn.ModuleDict(
            {
                "domain": Discriminator(
                    dim, [settings.domain_hidden], 3, seed=config.seed + 1, all_reduce_sum=world.sum
                ),
                "category": Discriminator(
                    dim,
                    settings.category_hidden,
                    classes,
                    dropout=settings.dropout,
                    seed=config.seed + 2,
                    all_reduce_sum=world.sum,
                ),
            }
        ).requires_grad_(False)

    def forward(self, points: Points) -> Loss:
        assert points.labels is not None
        settings, r = self.config.dada, self.config.dada.balance
        z_all, labels_all, proxies = self._everyone(points)
        shares = self.world.shares_of(points.student, points.shares)
        local = shares.rows(self.world.rank)
        p = self.proxies.of(labels_all, proxies, self.world)[local]
        x, y = points.student, points.labels
        u = self._random(points.step).beta(*settings.mix, size=len(z_all))[local]
        share_of_proxy = torch.as_tensor(u, dtype=x.dtype, device=x.device)[:, None]
        mixed = (1 - share_of_proxy) * x + share_of_proxy * p

        draws = Draws(self.config.seed, points.step, shares, self.world.rank, x.device)
        for _ in range(DISCRIMINATOR_STEPS):
            self._improve(x.detach(), mixed.detach(), p.detach(), y, draws, points.sound)

        base = self._base(z_all, labels_all, proxies)
        terms = {"proxy_anchor": base.detach()}
        if points.epoch < settings.warm_up_epochs:
            return Loss(settings.proxy_anchor * base, terms)
        domain, category, discrepancy = self._judged(x, mixed, p, y, draws)
        share = settings.proxy_anchor * base + r * (category + discrepancy) - (1 - r) * domain
        judged = {"domain": domain, "category": category, "discrepancy": discrepancy}
        return Loss(share, terms | {name: value.detach() for name, value in judged.items()})

    def _judged(self, x: Tensor, mixed: Tensor, p: Tensor, y: Tensor, draws: "Draws") -> tuple[Tensor, Tensor, Tensor]:
        """The rank's shares of L_U, L_C and L_d."""
        count = draws.shares.total
        scores = self.discriminators["domain"](torch.cat([x, mixed, p]), draws.of(3))
        domains = torch.tensor([SAMPLE, MIXED, PROXY], device=x.device).repeat_interleave(len(x))
        domain = cross_entropy(scores, domains, reduction="sum") / count
        of_x, of_mixed = self.discriminators["category"](torch.cat([x, mixed]), draws.of(2)).split(len(x))
        category = 2 * cross_entropy(of_x, y, reduction="sum") / count
        norm_x, norm_mixed = (
            torch.linalg.svdvals(self.world.gather_rows(softmax(scores, dim=1), draws.shares)).sum()
            for scores in (of_x, of_mixed)
        )
        return domain, category, (norm_x - norm_mixed) / (2 * count * self.world.size)

    def _improve(self, x: Tensor, mixed: Tensor, p: Tensor, y: Tensor, draws: "Draws", sound: Tensor) -> None:
        """One step of the discriminators; skipped if a rank's rows, or the gradients, are not finite."""
        r, parameters = self.config.dada.balance, list(self.discriminators.parameters())
        self.discriminators.requires_grad_(True)
        domain, category, discrepancy = self._judged(x, mixed, p, y, draws)
        with self.world.waiting("the backward of the discriminators"):
            gradients = torch.autograd.grad((1 - r) * domain + r * (category - discrepancy), parameters)
        self.discriminators.requires_grad_(False)
        fault = (~sound).to(x).reshape(1)
        total = self.world.sum(torch.cat([fault, *(gradient.flatten() for gradient in gradients)]))
        if self.config.runtime.strategy == "reproducible" and self.config.train.precision != "fp64":
            total = total.float().to(total)  # rounded once, as the gradients of the network and of the proxies
        sizes = [1, *(parameter.numel() for parameter in parameters)]
        for parameter, gradient in zip(parameters, total.split(sizes)[1:], strict=True):
            parameter.grad = gradient.view_as(parameter)
        skip = (total[0] > 0) | ~total.isfinite().all()
        update(self.optimiser, skip.float())

    @cached_property
    def optimiser(self) -> torch.optim.Optimizer:
        """Adam of the discriminators, created on first use, on their device and in their dtype."""
        optimiser = begun(torch.optim.Adam(self.discriminators.parameters(), lr=0.0, fused=True))
        optimiser.param_groups[0]["lr"] = self.config.dada.lr
        return optimiser

    def _random(self, step: int) -> np.random.Generator:
        key, counter = np.array([self.config.seed, 3], dtype=np.uint64), np.array([0, 0, 0, step], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def trained(self) -> Iterator[nn.Parameter]:
        return self.proxies.parameters()

    def state(self) -> State:
        names: dict[Tensor, str] = {value: name for name, value in self.discriminators.named_parameters()}
        moments = state_by_name(self.optimiser, names)
        return {
            **super().state(),
            **{f"discriminators.{name}": value for name, value in self.discriminators.state_dict().items()},
            **{f"discriminators.optimiser.{name}": value for name, value in moments.items()},
        }


def _discriminator_weights(config: Config, classes: int) -> int:
    """Weights of both discriminators, without the few of biases and batch norm."""
    dim, settings = config.model.dim, config.dada
    layers = [dim, settings.domain_hidden, 3], [dim, *settings.category_hidden, classes]
    return sum(a * b for widths in layers for a, b in pairwise(widths))


class Draws:
    """Random numbers of a step, independent of the rank of a row: drawn for all rows, of which own ones are used."""

    def __init__(self, seed: int, step: int, shares: Shares, rank: int, device: torch.device) -> None:
        self.shares, self._own, self._device = shares, shares.rows(rank), device
        self._key, self._calls = (seed, step), 0

    def of(self, domains: int) -> Uniform:
        """A source of numbers [domains * b, width] for this rank's rows of several domains."""

        def uniform(width: int) -> Tensor:
            self._calls += 1
            entropy = np.random.SeedSequence([*self._key, self._calls]).generate_state(1, np.uint64)
            generator = torch.Generator(self._device).manual_seed(int(entropy[0]))
            everyone = torch.rand(domains, self.shares.total, width, generator=generator, device=self._device)
            return everyone[:, self._own].flatten(0, 1)

        return uniform
