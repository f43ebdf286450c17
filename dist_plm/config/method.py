"""What is trained on a batch."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.fields import key


@dataclass
class ManifoldConfig:
    """Neighbourhoods (section 3.2) and similarity (3.3, 3.5).

    Args:
        dim: m, the dimension of a linear neighbourhood P_i.
        k: Nearest neighbours that may join X_i (points of the batch, views included).
        threshold: T, the quality with which every member must be reconstructed; at 0 all k neighbours join.
        criterion: `energy` reads T as |UU'v|^2 / |v|^2 >= T; `norm` as |v - UU'v| / |v| <= 1 - T.
        centre: Where the PCA is centred: the point itself (`anchor`), the `origin`, or the `mean` of X_i.
        similarity: `graded` is equation 2; `binary` is 1 within a neighbourhood and 0 outside (appendix).
        n_alpha: Decay of similarity across a neighbourhood (equation 3).
        n_beta: Decay of similarity along a neighbourhood (equation 4).
        scope: Where the neighbours of a point come from: the whole batch on any number of ranks (`global`), a rank's
            groups (`rank`, which needs the same number of whole groups on each), or all training images, as the
            momentum encoder embedded them at the last refresh (`gallery`); there a point's other views come first.
        piece: With scope `gallery`: a neighbourhood for each view of an image (`view`), or one around the mean of its
            views (`image`).
        project: Compute targets from points projected onto their own neighbourhood, x_i -> c_i + UU'(x_i - c_i), with
            c_i the mean of X_i. Needs centre `mean`: a neighbourhood centred at x_i holds x_i already.
        same_image: Force s = 1 between two views of one image.
    """

    dim: int = key(3, above=0, most=2**16)
    k: int = key(10, above=0)
    threshold: float = key(0.9, least=0, most=1)
    criterion: Literal["energy", "norm"] = "energy"
    centre: Literal["anchor", "origin", "mean"] = "anchor"
    similarity: Literal["graded", "binary"] = "graded"
    n_alpha: float = 2.0
    n_beta: float = 0.5
    scope: Literal["global", "rank", "gallery"] = "global"
    piece: Literal["view", "image"] = "view"
    project: bool = False
    same_image: bool = False


@dataclass
class ProxiesConfig:
    """Proxies rho and their neighbourhoods Psi (section 3.4), sharded over the ranks.

    Args:
        count: P = N_rho; 0 trains without proxies.
        lr_scale: Learning rate of rho and Psi, as a multiple of the network's.
        start: `normal` draws rho and Psi from N(0, 1); `data` takes teacher embeddings and their local bases.
        similarity_gradient: Let s carry gradient into rho and Psi; otherwise s is a constant target.
    """

    count: int = key(100, least=0)
    lr_scale: float = 100.0
    start: Literal["normal", "data"] = "normal"
    similarity_gradient: bool = False


@dataclass
class LossConfig:
    """Equations 6 to 9 as weighted means over pairs.

    The paper adds plain sums. At its |B| = 100 images x 2 views, P = 100 and m = 3 they hold 39,800 : 20,000 : 60,000
    pairs, which is 1 : 0.5025 : 1.5075; as weights of means this ratio holds for any batch.

    Args:
        delta: Distance of two entirely dissimilar points.
        relative: Measure delta in the unit in which the targets of a batch are on average as far apart as its points
            are by the momentum encoder: at 1 the loss neither spreads the batch nor draws it together.
        point: Weight of the mean of equation 6.
        proxy: Weight of the mean of equation 7.
        neighbourhood: Weight of the mean of equation 8.
    """

    delta: float = key(2.0, above=0)
    relative: bool = False
    point: float = 1.0
    proxy: float = key(20_000 / 39_800, quotient="20000/39800: pairs of eq. 7 per pair of eq. 6 in the paper's batch")
    neighbourhood: float = key(
        60_000 / 39_800, quotient="60000/39800: pairs of eq. 8 per pair of eq. 6 in the paper's batch"
    )


@dataclass
class WarmUpConfig:
    """A phase before the method's own for random weights: two-view instance discrimination (NT-Xent).

    Where all embeddings coincide every similarity is 1, so an untrained network is a fixed point of the method.

    Args:
        epochs: Length of the phase; 0 leaves it out.
        lr: Learning rate of the phase.
        temperature: Of the softmax over the batch, also of the methods `instance` and `neighbour_contrast`.
    """

    epochs: int = key(8, least=0)
    lr: float = key(2e-3, above=0)
    temperature: float = key(0.1, above=0)
