"""`python benchmarks/decoded.py SHARDS SIDE`: the loader from image files and from decoded images, CPU time and bytes.

Decodes the whole training split into a temporary folder.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dist_plm.config import DataConfig, ViewsConfig
from dist_plm.data.decoded import decode_once
from dist_plm.data.loader import Loader
from dist_plm.data.store import Store
from dist_plm.distributed.world import World
from dist_plm.telemetry.progress import Display

IMAGES, BATCH, REPEATS = 200, 50, 5


def loaded(store: Store, views: ViewsConfig, rows: np.ndarray) -> float:
    """CPU seconds of an epoch of `rows` in one worker."""
    start = time.process_time()
    for _ in Loader(store, rows, views=views, seed=0, epoch=0, workers=1, prefetch=2):
        pass
    return time.process_time() - start


def main(shards: str, side: int) -> None:
    """Print time and bytes of both, the best of five in turns."""
    views, world = ViewsConfig(), World()
    with tempfile.TemporaryDirectory() as folder, Store(shards, "train") as store:
        config = DataConfig(shards=shards, cache_dir=folder, decoded_side=side, workers=1)
        started = time.process_time()
        decoded = decode_once(store, config=config, world=world, display=Display(world))
        once = time.process_time() - started
        rows = np.random.default_rng(0).permutation(len(store))[:IMAGES].reshape(-1, BATCH)
        times = [(loaded(store, views, rows), loaded(decoded, views, rows)) for _ in range(REPEATS)]
        files, pixels = (1e3 * min(column) / IMAGES for column in zip(*times, strict=True))
        held = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        size = store.offsets["size"].sum(dtype=np.int64)
        print(f"{len(store):,} images, {views.count} views of {views.size} px, decoded to {side} px")
        print(f"from files   {files:.2f} ms of CPU an image, {size / len(store) / 1e3:6.1f} kB an image on disk")
        print(f"from pixels  {pixels:.2f} ms of CPU an image, {held / len(store) / 1e3:6.1f} kB an image on disk")
        print(f"decoding once {1e3 * once / len(store):.2f} ms of CPU an image; loader rate {files / pixels:.2f} x")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
