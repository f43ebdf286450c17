"""Settings of the method: neighbourhoods, proxies, loss, warm-up."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class ManifoldConfig:
    """Local neighbourhoods (section 3.2) and similarity (3.3, 3.5).

    Args:
        dim: Dimension of a local linear neighbourhood (m, of P_i).
        k: Candidate members of a local neighbourhood (X_i): nearest points of the batch, views included.
        threshold: Reconstruction quality that every member must reach (T); at 0 all k candidates are members.
        criterion: Reading of T: `energy` is |UU'v|^2 / |v|^2 >= T, `norm` is |v - UU'v| / |v| <= 1 - T.
        centre: Centre of the PCA: the point itself (`anchor`), the `origin`, or the `mean` of the members (X_i).
        similarity: `graded` (equation 2), or `binary`: 1 within a neighbourhood, 0 outside (appendix).
        n_alpha: Decay exponent of the similarity orthogonal to a neighbourhood (N_alpha, eq. 3).
        n_beta: Decay exponent of the similarity along a neighbourhood (N_beta, eq. 4).
        scope: Candidates for the neighbours of a point: the whole batch (`global`), the rank's groups (`rank`, needs
            whole groups and as many on each rank), or all training images as embedded at the last refresh (`gallery`),
            where a point's other views come first.
        piece: With scope `gallery`: a neighbourhood per view of an image (`view`), or one around the mean of its views
            (`image`).
        project: Compute targets from points projected onto their neighbourhood, x_i -> c_i + UU'(x_i - c_i), with c_i
            the mean of the members (X_i). Needs centre `mean`, since a neighbourhood centred at x_i contains x_i.
        same_image: Force similarity 1 between two views of one image.
    """

    dim: int = key(3, above=0, most=2**16)
    k: int = key(10, above=0)
    threshold: float = key(0.9, least=0, most=1)
    criterion: Literal["energy", "norm"] = "energy"
    centre: Literal["anchor", "origin", "mean"] = "anchor"
    similarity: Literal["graded", "binary"] = "graded"
    n_alpha: float = key(2.0, least=0)
    n_beta: float = key(0.5, least=0)
    scope: Literal["global", "rank", "gallery"] = "global"
    piece: Literal["view", "image"] = "view"
    project: bool = False
    same_image: bool = False


@dataclass
class ProxiesConfig:
    """Learnable proxies (rho) and their neighbourhoods (Psi; section 3.4), sharded over the ranks.

    Args:
        count: Number of proxies (N_rho); 0: none.
        lr_scale: Learning rate of the proxies, as a multiple of the network's.
        start: Initialisation: `normal` draws from N(0, 1); `data` copies embeddings and their local bases.
        similarity_gradient: Backpropagate through the similarity into the proxies; otherwise it is a constant target.
    """

    count: int = key(100, least=0)
    lr_scale: float = key(100.0, least=0)
    start: Literal["normal", "data"] = "normal"
    similarity_gradient: bool = False


@dataclass
class LossConfig:
    """Loss terms (equations 6 to 9) as weighted means over pairs.

    The paper adds sums over pairs. With its 100 images x 2 views, 100 proxies and m = 3 they have 39,800, 20,000 and
    60,000 pairs; as weights of means, 1 : 20000/39800 : 60000/39800 keeps this ratio for any batch.

    Args:
        delta: Target distance of two points of similarity 0 (delta, eq. 6 and 7).
        relative: Scale delta so that the mean target distance of a batch is delta times its mean distance by the
            momentum encoder: at 1 the loss neither spreads nor contracts the batch.
        point: Weight of the point-point term (eq. 6).
        proxy: Weight of the point-proxy term (eq. 7); default 20000/39800.
        neighbourhood: Weight of the proxy-neighbourhood term (eq. 8); default 60000/39800.
    """

    delta: float = key(2.0, above=0)
    relative: bool = False
    point: float = key(1.0, least=0)
    proxy: float = key(
        20_000 / 39_800, least=0, quotient="20000/39800: pairs of eq. 7 per pair of eq. 6 in the paper's batch"
    )
    neighbourhood: float = key(
        60_000 / 39_800, least=0, quotient="60000/39800: pairs of eq. 8 per pair of eq. 6 in the paper's batch"
    )


@dataclass
class WarmUpConfig:
    """Warm-up phase for random weights: two-view instance discrimination (NT-Xent).

    If all embeddings coincide every similarity is 1: an untrained network is a fixed point of the method.

    Args:
        epochs: Length of the phase; 0: none.
        lr: Learning rate of the phase.
        temperature: Softmax temperature, also of the methods `instance` and `neighbour_contrast`.
    """

    epochs: int = key(8, least=0)
    lr: float = key(2e-3, above=0)
    temperature: float = key(0.1, above=0)
