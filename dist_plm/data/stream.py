"""The sequential sweep: one shard is read from front to back through `webdataset` and becomes batches to embed.

A batch never crosses a shard and depends on nothing but the shard, so an embedding does not depend on who reads it.
"""

import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import BinaryIO

import numpy as np
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.store import Shard, Store
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError

_ADVICE = "find out what else is damaged: python shards/verify.py"


def sweep_shard(
    store: Store, shard_index: int, *, config: ViewsConfig, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    """Evaluation views of the samples of one shard, in order.

    While the caller works on one batch, `workers` threads decode the next; no more than two are ever in memory.

    Args:
        store: The split.
        shard_index: Position in `store.shards`.
        config: `size` and `resize` of the views.
        batch_size: Images in a batch; the last of the shard may hold fewer.
        workers: Decoding threads.

    Yields:
        uint8 [b, 3, size, size].

    Raises:
        UserError: If the shard is damaged, a sample is no image, or the number of samples is not the manifest's. The
            last shows only at the end, so keep nothing of a shard whose sweep has not ended.
    """
    shard = store.shards[shard_index]
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
    pending: deque[Future[np.ndarray]] = deque()
    with open(shard.path, "rb") as file:
        try:
            for key, data in _images(file, shard):
                pending.append(pool.submit(_view, shard, key, data, config))
                if len(pending) == 2 * batch_size:
                    yield _batch(pending, batch_size)
            while pending:
                yield _batch(pending, batch_size)
        finally:
            pool.shutdown(cancel_futures=True)


def _batch(pending: deque[Future[np.ndarray]], batch_size: int) -> torch.Tensor:
    views = [pending.popleft() for _ in range(min(batch_size, len(pending)))]
    # One wake-up a batch: waiting for each view in turn takes the GIL from the workers once an image.
    wait(views, return_when=FIRST_EXCEPTION)
    return torch.from_numpy(np.stack([view.result() for view in views]))


def _view(shard: Shard, key: str, data: bytes, config: ViewsConfig) -> np.ndarray:
    try:
        return eval_view(decode(data), config=config)
    except ValueError as error:
        raise UserError(f"{shard.path}: sample '{key}': {error}; {_ADVICE} {shard.path.parent}") from error


def _images(file: BinaryIO, shard: Shard) -> Iterator[tuple[str, bytes]]:
    """Key and image bytes of each sample of the shard; their number is checked.

    webdataset gets an open file, never a name: it would run the name `pipe:...` as a command, expand braces in it,
    rewrite or cache it as environment variables say, and refuse to open it in a process of a world larger than 1.
    """
    # Training alone reads by offset and starts without it.
    from webdataset.tariterators import group_by_keys, tar_file_expander

    found = 0
    try:
        for sample in group_by_keys(tar_file_expander([{"url": shard.path.name, "stream": file}])):
            images = [name for name in sample if name != "json" and not name.startswith("__")]
            if len(images) != 1:
                raise UserError(
                    f"{shard.path}: sample '{sample['__key__']}' has {len(images)} images instead of one; "
                    f"{_ADVICE} {shard.path.parent}"
                )
            found += 1
            yield sample["__key__"], sample[images[0]]
    except tarfile.TarError as error:
        raise UserError(f"{shard.path} is not an intact tar; {_ADVICE} {shard.path.parent}") from error
    if found != shard.samples:
        raise UserError(
            f"{shard.path} holds {found} samples, the manifest says {shard.samples}; {_ADVICE} {shard.path.parent}"
        )
