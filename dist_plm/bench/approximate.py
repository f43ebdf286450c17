"""P11: recall of an approximate index, or that it is below the floor."""

from dataclasses import replace

import numpy as np
import torch

from dist_plm.bench.ratios import Ratio
from dist_plm.bench.searching import NEIGHBOURS, clustered
from dist_plm.bench.setting import Setting
from dist_plm.errors import RunFailure
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.faiss_library import find_faiss, missing_faiss
from dist_plm.index.flat import nearest
from dist_plm.index.global_index import GlobalIndex
from dist_plm.index.placement import place

ROWS_OF_A_CELL = 128


def recall(setting: Setting) -> list[Ratio]:
    """P11: recall on seeds other than those by which the index chose nprobe.

    The index measures its own recall to choose nprobe; here exact search measures the result independently.
    """
    if not find_faiss():
        return [Ratio("P11", note=f"faiss is {missing_faiss()}: search is exact")]
    rows, count = setting.search
    config = setting.config.index
    if config.exact:
        config = replace(config, factory=f"IVF{rows // ROWS_OF_A_CELL},SQ8")
    gallery = clustered(rows, setting.config.model.dim)
    file = setting.scratch / "embeddings.npy"
    np.save(file, gallery.numpy())
    embeddings, k = Embeddings([file]), NEIGHBOURS * setting.config.batch.group_size
    placement = place(config, rows, embeddings.dim, 1)
    hits: list[float] = []
    try:
        with GlobalIndex(embeddings, config, placement, backend="auto", world=setting.world, seed=0) as index:
            index.guard(0, k)
            for repeat in range(setting.repeats):
                seeds = np.random.default_rng([repeat, 1]).permutation(rows)[: count // setting.repeats]
                hits.append(_hits(index.neighbours(seeds, k), gallery, torch.from_numpy(seeds)))
            facts = index.facts
    except RunFailure as failure:
        return [Ratio("P11", note=f"refused: {failure}")]
    note = f"{config.factory} over {rows:,} x {gallery.shape[1]}, {facts['nprobe']} cells searched, {k} neighbours"
    return [Ratio("P11", hits, [float(count // setting.repeats * k)] * len(hits), note)]


def _hits(neighbours: np.ndarray, gallery: torch.Tensor, seeds: torch.Tensor) -> float:
    exact, _ = nearest(gallery[seeds], gallery, neighbours.shape[1], exclude=seeds, backend="torch")
    return float((neighbours[:, :, None] == exact[:, None, :]).any(2).sum())
