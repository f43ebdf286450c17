"""`python benchmarks/loader.py SHARDS [SPLIT]`: the loader against a bare decode loop on the same images, CPU time."""

import sys
import time

import numpy as np

from dist_plm.config import ViewsConfig
from dist_plm.data.loader import Loader
from dist_plm.data.store import Store
from dist_plm.data.views import train_view

IMAGES, BATCH, REPEATS = 200, 50, 5


def bare(store: Store, views: ViewsConfig) -> float:
    """CPU seconds of reading, decoding and cutting the views in one thread, with nothing around it."""
    start = time.process_time()
    for id in range(IMAGES):
        image = store.read_image(id)
        for view in range(views.count):
            train_view(image, config=views, seed=0, epoch=0, sample=id, view=view)
    return time.process_time() - start


def loaded(store: Store, views: ViewsConfig) -> float:
    """The same through the loader, in one worker."""
    rows = np.arange(IMAGES).reshape(-1, BATCH)
    start = time.process_time()
    for _ in Loader(store, rows, views=views, seed=0, epoch=0, workers=1, prefetch=2):
        pass
    return time.process_time() - start


if __name__ == "__main__":
    store, views = Store(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "train"), ViewsConfig()
    # In turns and the best of five: other programs on the machine must not decide.
    times = [(bare(store, views), loaded(store, views)) for _ in range(REPEATS)]
    best_bare, best_loaded = (min(column) for column in zip(*times, strict=True))
    print(f"{IMAGES} images, {views.count} views of {views.size} px")
    print(f"bare {1e3 * best_bare / IMAGES:.2f} ms an image, loader {1e3 * best_loaded / IMAGES:.2f}")
    print(f"P4 loader / bare decode loop: {best_bare / best_loaded:.2f}")
