"""The embedding pass: all ranks together embed all images of a split (the gallery)."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dist_plm.config import Config
from dist_plm.data.store import Store
from dist_plm.distributed.shares import balanced
from dist_plm.distributed.world import World
from dist_plm.errors import RunFailure
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import file_digest, map_array, read_document
from dist_plm.index.batch_sources import Source, from_images
from dist_plm.index.embedding_files import Embeddings
from dist_plm.telemetry.progress import Display, Task

Embed = Callable[[Tensor], Tensor]
DIVERGED = "the weights are damaged or training diverged; use another checkpoint, or train with a lower optimiser.lr"


def sweep(
    embed: Embed,
    store: Store,
    folder: Path,
    *,
    config: Config,
    world: World,
    display: Display,
    title: str,
    precision: Literal["fp32", "fp16"] = "fp32",
    source: Source | None = None,
    renewable: bool = True,
) -> Embeddings:
    """Embeddings [n, D] of all images of `store`, readable by every rank. A collective.

    Each rank reads its shards in order and writes one file per shard under `folder`/split, then a note with its hash.
    Shards with an intact file are skipped, so an interrupted pass resumes. The others are balanced over the ranks by
    size. A batch never spans two shards: an embedding is bitwise independent of the rank that computes it. `folder`
    must be named by the digest of the weights of `embed`.

    Args:
        source: Provides the batches, in place of the evaluation views of the images.
        renewable: Whether `embed` has the weights that `folder` is named by, so that missing or damaged files can be
            recomputed; otherwise all files must be intact.

    Raises:
        RunFailure: An embedding is not finite, or a file that is not renewable is missing or damaged.
        Preempted: A rank caught a signal; all ranks stop between two batches.
    """
    folder = folder / store.split
    # Named by ids: another partition into shards has other files.
    files = [folder / f"ids_{shard.first_id}_{shard.samples}.npy" for shard in store.shards]
    folder.mkdir(parents=True, exist_ok=True)
    faults = _faults(files, [shard.samples for shard in store.shards], world)
    if faults and not renewable:
        raise RunFailure(
            f"{faults[min(faults)]}, and the weights of these embeddings no longer exist: restore the file, or rerun "
            "with --force_resume to use embeddings of the current weights"
        )
    missing = sorted(faults)
    shares = balanced([store.shards[number].samples for number in missing], world.size)
    assigned = [missing[position] for position in shares[world.rank]]
    total = sum(store.shards[number].samples for number in assigned)
    shards = (source or from_images(config))(store, assigned)
    infinite = ""
    with display.phase(title, total, "images") as phase, closing(shards):
        for number, batches in shards:
            embedded = _embedded(embed, batches, world, phase)
            if embedded is None:  # this shard may be incomplete
                break
            if not bool(embedded.isfinite().all()):
                infinite = f"{title}: {int((~embedded.isfinite()).any(1).sum()):,} embeddings are not finite"
                break
            _write(
                files[number], embedded.numpy().astype(np.float16 if precision == "fp16" else np.float32, copy=False)
            )
    world.leave_if_signalled()  # ranks with fewer shards wait here for the others
    if infinite_row := next(filter(None, world.gather_objects(infinite)), ""):
        raise RunFailure(f"{infinite_row}: {DIVERGED}")
    return world.together(lambda: _opened(files))


def _opened(files: list[Path]) -> Embeddings:
    try:
        return Embeddings(files)
    except OSError as error:  # of another rank's file
        raise RunFailure(
            f"{error.filename or files[0].parent} can't be read ({error.strerror}): put the run directory on a file "
            "system that all nodes share"
        ) from error


def _faults(files: list[Path], samples: list[int], world: World) -> dict[int, str]:
    """Errors of unusable files, by number. A collective."""
    # As rank 0 sees it: on a network file system a file may not be visible to all ranks at once.
    names = world.from_first(lambda: set(os.listdir(files[0].parent)))
    there = [number for number, file in enumerate(files) if file.name in names]
    faults = {number: f"{file} is missing" for number, file in enumerate(files) if file.name not in names}
    # Older versions wrote no notes.
    noted = any(_note(file).name in names for file in files)
    shares = balanced([samples[number] for number in there], world.size)
    local_faults = {}
    for number in (there[position] for position in shares[world.rank]):
        if fault := _fault(files[number], samples[number], noted):
            local_faults[number] = fault
    for rank_faults in world.gather_objects(local_faults):
        faults |= rank_faults
    return faults


def _fault(file: Path, samples: int, noted: bool) -> str:
    """Error of a file of embeddings; empty for none."""
    try:
        if noted and read_document(_note(file)) != file_digest(file):
            return f"{file} is damaged (its sha256 differs)"
        array = map_array(file)
    except (OSError, ValueError) as error:
        return f"{file} can't be read ({error})"
    if array.ndim != 2 or len(array) != samples or array.dtype not in (np.float16, np.float32):
        return f"{file} holds {array.dtype} {array.shape}, not embeddings of {samples} images"
    return ""


def _write(file: Path, embedded: np.ndarray) -> None:
    with replacing(file) as target:
        np.save(target, embedded)
    with replacing(_note(file)) as target:  # last, since it marks the file as complete
        target.write(json.dumps(file_digest(file)).encode())


def _note(file: Path) -> Path:
    return file.with_suffix(".json")


def _embedded(embed: Embed, batches: Iterable[Tensor], world: World, phase: Task) -> Tensor | None:
    """The embeddings of a shard, float32 [n, D] on the CPU; None after a signal."""
    rows = []
    for batch in batches:
        # A copy from pageable memory synchronises with the GPU.
        pinned = batch.pin_memory() if world.device.type == "cuda" else batch
        rows.append(embed(pinned.to(world.device, non_blocking=True)))
        phase.advance(len(batch), scale=world.size)
        if world.signal:
            return None
    # At the end, since a copy per batch would synchronise with the device each time.
    return torch.cat(rows).float().cpu()
