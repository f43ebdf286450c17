"""The exact order of a gallery by Euclidean distance: the same on any device, in any blocking, with ties by id.

In floating point, two equal distances differ in their last bits with the shape of the product that computed them,
which makes ties a lottery. Points are therefore rounded once, to a lattice of whole numbers on which every squared
distance is computed without rounding.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LAST = torch.iinfo(torch.int64).max  # the key of a gallery row that is not to be found
GALLERY_BLOCK = 16_384  # 1,024 queries x 16,384 rows x 8 B = 128 MiB a temporary


@dataclass(frozen=True)
class Lattice:
    """Whole-number coordinates round((x - centre) / step) and the keys that order them.

    Exactness: the step is a power of two with which no norm exceeds 1.4 * 2^25. A sum of products is then at most
    1.96 * 2^50 (Cauchy-Schwarz, for every partial sum too) and a squared distance at most 4 times that, which is below
    2^53 with room for the rounding of D < 2^40 coordinates: float64 holds every intermediate exactly, in any order of
    summation. A coordinate moves by step / 2 <= 2^-25.4 of the largest norm at most, about the resolution of float32.

    Args:
        centre: [D] float64, subtracted first: resolution follows the spread of the points, not their offset.
        step: Spacing of the lattice, in the unit of the points.
        radius: Bound of all norms on the lattice.
        id_bits: Bits of a gallery id.
    """

    centre: Tensor
    step: float
    radius: float
    id_bits: int

    @classmethod
    def around(cls, gallery: Tensor, queries: Tensor) -> "Lattice":
        """The lattice of a gallery [N, D] and its queries [Q, D], both finite (else ValueError).

        The centre is that of the gallery's bounding box, since minimum and maximum do not depend on the order of a
        reduction. Any share of the queries yields the same lattice as long as none lies farther out than the gallery.
        """
        centre = box_centre(gallery.amin(0), gallery.amax(0))
        norm = max(largest_norm(gallery, centre), largest_norm(queries, centre))
        return cls.scaled(centre, norm, len(gallery))

    @classmethod
    def scaled(cls, centre: Tensor, norm: float, count: int) -> "Lattice":
        """The lattice of `count` gallery rows of which none, and no query, is farther than `norm` from `centre`."""
        if not math.isfinite(norm):
            raise ValueError("embeddings hold values that are not finite numbers")
        exponent = math.ceil(math.log2(norm / (1.4 * 2**25))) if norm > 0 else 0
        step = math.ldexp(1.0, exponent)
        return cls(centre, step, norm / step + math.sqrt(len(centre)), max(1, (count - 1).bit_length()))

    @property
    def shift(self) -> int:
        """Low bits dropped from a squared distance: 53 - shift + id_bits <= 63, so that a key fits an int64."""
        return max(0, 53 + self.id_bits - 63)

    def points(self, x: Tensor) -> Tensor:
        """Lattice coordinates of x [..., D], whole numbers as float64."""
        return ((x.double() - self.centre) / self.step).round_()

    def keys(self, squared: Tensor, ids: Tensor) -> Tensor:
        """Keys int64 of squared lattice distances and gallery ids (broadcast): unique, ordered by (distance, id)."""
        distance = squared.long().bitwise_right_shift_(self.shift)
        return distance.bitwise_left_shift_(self.id_bits).bitwise_or_(ids)

    def ids(self, keys: Tensor) -> Tensor:
        """Gallery ids of keys."""
        return keys & ((1 << self.id_bits) - 1)

    def squared(self, keys: Tensor) -> Tensor:
        """Squared lattice distances of keys, int64, without the bits that `shift` dropped."""
        return keys >> self.id_bits << self.shift


def nearest_keys(queries: Tensor, gallery: Tensor, k: int, lattice: Lattice, exclude: Tensor | None = None) -> Tensor:
    """Keys of the k nearest gallery rows of every query, ascending, by a scan of the whole gallery.

    Args:
        queries: [Q, D]. Memory grows as Q x 16,384; callers pass about 1,024 at a time.
        gallery: [N, D] on the same device.
        k: At most N, or N - 1 with `exclude`.
        lattice: Built from this gallery.
        exclude: int64 [Q], the gallery row that is the query itself and is not to be found.

    Returns:
        int64 [Q, k]; `lattice.ids` and `lattice.squared` take them apart.
    """
    if k > len(gallery) - (exclude is not None):
        raise ValueError(f"{k} neighbours from a gallery of {len(gallery)}" + " less the query" * (exclude is not None))
    points = lattice.points(queries)
    norms = points.square().sum(1, keepdim=True)
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=gallery.device)
    for low in range(0, len(gallery), GALLERY_BLOCK):
        block = lattice.points(gallery[low : low + GALLERY_BLOCK])
        squared = (points @ block.T).mul_(-2).add_(norms).add_(block.square().sum(1))
        keys = lattice.keys(squared, torch.arange(low, low + len(block), device=gallery.device))
        if exclude is not None:
            rows = ((exclude >= low) & (exclude < low + len(block))).nonzero().squeeze(1)
            keys[rows, exclude[rows] - low] = LAST
        best = torch.cat([best, _smallest(keys, k)], 1)
        best = _smallest(best, k)
    return best


def _smallest(keys: Tensor, k: int) -> Tensor:
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False).values


def fill(keys: Tensor, width: int) -> Tensor:
    """Keys [Q, k] and LAST up to [Q, width]."""
    return torch.cat([keys, keys.new_full((len(keys), max(0, width - keys.shape[1])), LAST)], 1)


def box_centre(low: Tensor, high: Tensor) -> Tensor:
    """The centre of a bounding box, float64 [D]."""
    low, high = low.double(), high.double()
    return low + (high - low) / 2


def largest_norm(x: Tensor, centre: Tensor) -> float:
    """The largest distance of a row from `centre`; 0 for no rows."""
    blocks = [(block.double() - centre).square_().sum(1).amax() for block in x.split(GALLERY_BLOCK) if len(block)]
    return float(torch.stack(blocks).amax().sqrt()) if blocks else 0.0
