"""What the paper's baselines are trained with, and the supervised method that is built on one of them."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class StmlConfig:
    """Self-taught metric learning (Kim et al., CVPR 2022). The teacher's head is `model.wide_dim`.

    Args:
        delta: Relative distance (1 is a row's mean) up to which dissimilar points are pushed apart.
    """

    delta: float = key(1.0, above=0)


@dataclass
class ProxyAnchorConfig:
    """Proxy-Anchor (Kim et al., CVPR 2020), alone and within DADA and pseudo-labels.

    Args:
        alpha_positive: Sharpness of the attraction.
        alpha_negative: Sharpness of the repulsion.
    """

    alpha_positive: float = key(32.0, above=0)
    alpha_negative: float = key(32.0, above=0)


@dataclass
class PseudoLabelsConfig:
    """Classes made up by clustering the momentum embeddings, anew at every refresh.

    The first rank clusters; the others wait for it, `runtime.timeout_seconds` at most.

    Args:
        clustering: `k_means`, `ward` (hierarchical), or `random_walk` (around the most visited points of a graph).
        clusters: How many; each has a proxy.
    """

    clustering: Literal["k_means", "ward", "random_walk"] = "k_means"
    clusters: int = 100


@dataclass
class DadaConfig:
    """Data-augmented domain adaptation (Ren et al., AAAI 2024) around Proxy-Anchor.

    Args:
        proxy_anchor: lambda, weight of the base loss.
        balance: r, weight of the category discriminator; the domain discriminator has 1 - r.
        mix: a and b of u ~ Beta(a, b), the share of the proxy in a mixed point.
        domain_hidden: Width of the domain discriminator.
        category_hidden: Widths of the category discriminator.
        dropout: Of the category discriminator.
        lr: Learning rate of the discriminators.
        warm_up_epochs: Epochs in which the discriminators learn and the network sees the base loss alone.
    """

    proxy_anchor: float = key(0.0075, least=0)
    balance: float = key(0.005, least=0, most=1)
    mix: tuple[float, float] = key((3.0, 0.5), above=0)
    domain_hidden: int = key(512, above=0)
    category_hidden: list[int] = key([512, 128], above=0)
    dropout: float = key(0.5, least=0, below=1)
    lr: float = key(5e-4, above=0)
    warm_up_epochs: int = key(1, least=0)
