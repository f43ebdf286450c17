"""Settings of the baselines, and of the supervised method that builds on one of them."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class StmlConfig:
    """Self-taught metric learning (Kim et al., CVPR 2022). The teacher's head is `model.wide_dim`.

    Args:
        delta: Margin up to which dissimilar points are pushed apart, relative to the mean distance of a row.
    """

    delta: float = key(1.0, above=0)


@dataclass
class ProxyAnchorConfig:
    """Proxy-Anchor (Kim et al., CVPR 2020), alone and within DADA and pseudo-labels.

    Args:
        alpha_positive: Scale of the positive terms.
        alpha_negative: Scale of the negative terms.
    """

    alpha_positive: float = key(32.0, above=0)
    alpha_negative: float = key(32.0, above=0)


@dataclass
class PseudoLabelsConfig:
    """Pseudo-labels by clustering the momentum embeddings, recomputed at every refresh.

    Rank 0 clusters; the others wait, at most `runtime.timeout_seconds`.

    Args:
        clustering: `k_means`, `ward` (hierarchical), or `random_walk` (MOM, on a nearest-neighbour graph).
        clusters: Number of clusters; each has a proxy.
    """

    clustering: Literal["k_means", "ward", "random_walk"] = "k_means"
    clusters: int = key(100, above=0)


@dataclass
class DadaConfig:
    """Data-augmented domain adaptation (Ren et al., AAAI 2024) around Proxy-Anchor.

    Args:
        proxy_anchor: Weight of the Proxy-Anchor loss (lambda).
        balance: Weight of the category discriminator (r); that of the domain discriminator is 1 - r.
        mix: Parameters a, b of the Beta distribution of mixing weights.
        domain_hidden: Hidden width of the domain discriminator.
        category_hidden: Hidden widths of the category discriminator.
        dropout: Dropout rate of the category discriminator.
        lr: Learning rate of the discriminators.
        warm_up_epochs: First epochs, in which the network is trained by the Proxy-Anchor loss only.
    """

    proxy_anchor: float = key(0.0075, least=0)
    balance: float = key(0.005, least=0, most=1)
    mix: tuple[float, float] = key((3.0, 0.5), above=0)
    domain_hidden: int = key(512, above=0)
    category_hidden: list[int] = key([512, 128], above=0)
    dropout: float = key(0.5, least=0, below=1)
    lr: float = key(5e-4, above=0)
    warm_up_epochs: int = key(1, least=0)
