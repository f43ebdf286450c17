"""What an epoch reads and from where, by arithmetic: for `--plan`."""

import numpy as np

from dist_plm.config import Config
from dist_plm.data.decoded import estimated_bytes
from dist_plm.data.remote.mirror import cache_folder
from dist_plm.data.remote.spans import is_url
from dist_plm.data.remote.store import BLOCK
from dist_plm.data.store import Store


def read_rows(config: Config, store: Store, *, swept: bool) -> list[tuple[str, str]]:
    """Lines of `--plan`: bytes of an epoch, and requests and cache where the shards are at a URL.

    Args:
        swept: Whether the method's batches rest on a sweep.
    """
    sizes = np.asarray(store.offsets["size"], dtype=np.int64)
    total, batch = int(sizes.sum()), config.batch
    images = len(store) // batch.images * batch.images
    sweep, steps = total / batch.refresh_epochs * swept, sizes.mean() * images
    rows = [("an epoch reads", f"{sweep / 1e6:,.1f} MB in order (sweep), {steps / 1e6:,.1f} MB at random (steps)")]
    if config.data.decoded_side:
        size = estimated_bytes(store, config.data.decoded_side) / 1e9
        place = cache_folder(config.data)
        rows.append(
            ("decoded once", f"about {size:,.3g} GB on a disk of each node, in {place}; epochs read from there")
        )
    elif is_url(config.data.shards):
        stretches = sum(-(-shard.bytes // BLOCK) for shard in store.shards) / batch.refresh_epochs * swept
        requests = f"{stretches:,.0f} in order, {images:,} at random at most, less what the cache holds"
        held = min(1.0, config.data.cache_gb * 1e9 / total)
        rows += [
            ("an epoch's requests", f"{requests}; at least {config.data.prefetch + 1} steps ahead"),
            (
                "cache of a node",
                f"{config.data.cache_gb:,.3g} GB in {cache_folder(config.data)}: {held:.0%} of the images",
            ),
        ]
    return rows
