"""P6: exact nearest-neighbour search, relative to its matrix product."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dist_plm.bench.ratios import Measure, Ratio, in_turns
from dist_plm.bench.setting import Setting
from dist_plm.index.flat import QUERY_BLOCK, describe, nearest

CLUSTERS, SPREAD = 256, 0.7  # embeddings are clustered, which affects ties
NEIGHBOURS = 2  # groups of a batch, as the plan asks


def searching(setting: Setting) -> list[Ratio]:
    """P6: exact search of the queries in the gallery / their matrix product, in the blocks that the search takes."""
    backend, device = setting.config.index.backend, setting.world.device
    rows, count = setting.search
    gallery = clustered(rows, setting.config.model.dim).to(device)
    queries, query_rows = gallery[:count], torch.arange(count)
    k = NEIGHBOURS * setting.config.batch.group_size
    products = torch.empty(min(QUERY_BLOCK, count), rows, device=device)

    def product() -> None:
        for block in queries.split(QUERY_BLOCK):
            torch.mm(block, gallery.T, out=products[: len(block)])

    def search() -> None:
        nearest(queries, gallery, k, exclude=query_rows, backend=backend, device=device)

    over, under = in_turns(setting.repeats, _milliseconds(setting, product), _milliseconds(setting, search))
    note = f"{count:,} x {rows:,} x {gallery.shape[1]}, {k} neighbours, {describe(backend, device)}"
    return [Ratio("P6", over, under, note)]


def _milliseconds(setting: Setting, act: Callable[[], None]) -> Measure:
    act()
    return lambda: 1e3 * setting.seconds(act)


def clustered(rows: int, dim: int) -> Tensor:
    """Unit vectors [rows, dim] around CLUSTERS centres, the same at every call."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(CLUSTERS, dim, generator=random)
    chosen = centres[torch.randint(CLUSTERS, (rows,), generator=random)]
    return normalize(chosen + SPREAD * torch.randn(rows, dim, generator=random))
