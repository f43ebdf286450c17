"""Builds the demo's data set if training needs it and it is missing."""

import os
import sys
import time
from pathlib import Path

from dist_plm.config import DataConfig
from dist_plm.data.format import MANIFEST
from dist_plm.distributed.environment import place
from dist_plm.errors import UserError

IMAGES, PIXELS = 6000, 64
POLL_SECONDS = 0.2


def build_if_missing(config: DataConfig, timeout_seconds: float) -> None:
    """Render the demo's data set on rank 0 if `config` names it and it is missing; the other ranks wait.

    Args:
        timeout_seconds: Time-out of the wait.

    Raises:
        UserError: It can't be written, or is not visible to a rank.
    """
    out = Path(config.shards)
    manifest = out / MANIFEST
    if config.shards != DataConfig().shards or manifest.exists():
        return
    started = time.monotonic()
    if place().rank == 0:
        print(f"{out} is missing: rendering {IMAGES:,} images for the demo", file=sys.stderr, flush=True)
        _render(out)
        print(f"{out} written in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        return
    while not manifest.exists():
        if time.monotonic() - started > timeout_seconds:
            raise UserError(
                f"{out} did not appear within {timeout_seconds:,.0f} s on rank {place().rank}: rank 0 "
                "writes it, to a disk that all ranks must share"
            )
        time.sleep(POLL_SECONDS)


def _render(out: Path) -> None:
    # Every training run comes through this module; the builder, with Matplotlib and SciPy, takes .5 s to import.
    from dist_plm.datasets import demo
    from dist_plm.datasets.assembly import build, writing
    from dist_plm.datasets.build import DEMO_SHARD_MB

    source = demo.source(IMAGES, classes=0, pixels=PIXELS, seed=0)
    with writing(out):
        build(source, out, shard_bytes=round(DEMO_SHARD_MB * 1e6), workers=os.cpu_count() or 1)
