"""Sharded checkpoints, readable at any world size; reading one executes no code.

    RUN_DIR/checkpoints/
        step_00000200/                      a complete checkpoint; written as step_00000200.tmp, then renamed
            shard-00001-model-....safetensors   rank 0: its share of the replicated tensors, sharded ones with offsets
            shard-00002-model-....safetensors   rank 1; a large share is several files
            checkpoint.json                     position, fingerprint, versions; size and sha256 of each file, its own

Three functions: `write` (called by checkpoint/saver.py in a thread), `find` (the newest complete one), `load`. Tensors
are stored by torch.distributed.checkpoint as safetensors and resharded on load; everything else is in
checkpoint.json.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from dist_plm.checkpoint.summary import SUMMARY, fault, signed, summary
from dist_plm.distributed.shares import balanced
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing, sync_folder
from dist_plm.files.reading import file_digest

SMALL_BYTES = 1 << 16
FILE_BYTES = 1 << 27  # approximate: a tensor is never split over files
ANEW = "use the settings that it was saved with, or another --run_dir to start a new run"


@dataclass(frozen=True)
class Sharded:
    """A rank's rows of a tensor whose `rows` rows are split over the ranks as torch.chunk splits them."""

    local: Tensor
    rows: int


State = Mapping[str, "Tensor | Sharded"]


@dataclass(frozen=True)
class FoundCheckpoint:
    """A complete checkpoint, and the newer ones that were skipped, each with what is wrong with it."""

    path: Path
    summary: dict[str, Any]
    rejected: list[str]


def share(state: State, world: World) -> State:
    """This rank's part of the checkpoint: its slices of sharded tensors, and 1/W of the bytes of replicated ones.

    Small tensors are written by rank 0: their size is negligible, and batch-norm statistics, which may differ between
    ranks, then come from the same rank.
    """
    sizes = {name: value.nbytes for name, value in state.items() if isinstance(value, Tensor)}
    large = {name: size for name, size in sizes.items() if size >= SMALL_BYTES}
    local_names = {list(large)[position] for position in balanced(list(large.values()), world.size)[world.rank]}

    def is_mine(name: str) -> bool:
        return isinstance(state[name], Sharded) or (name in local_names if name in large else world.is_first)

    return {name: value for name, value in state.items() if is_mine(name)}


def staged(state: State) -> dict[str, "Tensor | Sharded"]:
    """A contiguous copy in host memory, as safetensors requires, unaffected by further training."""
    return {
        name: Sharded(_copy(value.local), value.rows) if isinstance(value, Sharded) else _copy(value)
        for name, value in state.items()
    }


def file_numbers(state: State, world: World) -> dict[str, int]:
    """File number, from 1, of each tensor of the whole state on its rank.

    The writer serialises a file in memory, twice, beside the copy of its tensors: about 256 MB at this file size.
    """
    sizes = [_bytes(value) for value in state.values()]
    before = accumulate(sizes[:-1], initial=0)
    return {name: 1 + start // (FILE_BYTES * world.size) for name, start in zip(state, before, strict=True)}


def _bytes(value: "Tensor | Sharded") -> int:
    if isinstance(value, Sharded):
        return value.rows * math.prod(value.local.shape[1:]) * value.local.element_size()
    return value.nbytes


def write(
    folder: Path, step: int, state: State, numbers: dict[str, int], facts: dict[str, Any], group: dist.ProcessGroup
) -> None:
    """Write the checkpoint of `step` from all ranks, and rename it.

    Args:
        folder: Contains an empty step_N.tmp, visible to all ranks.
        state: This rank's share in host memory; see `share` and `staged`.
        numbers: See `file_numbers`.
        facts: Everything that is not a tensor, for the summary.
        group: Process group used by nothing else while this checkpoint is written.
    """
    final, temporary = folder / f"step_{step:08d}", folder / f"step_{step:08d}.tmp"
    writer = HuggingFaceStorageWriter(str(temporary), fqn_to_index_mapping=numbers, save_distributed=True)
    dcp.save(_distributed(state, group), storage_writer=writer, process_group=group)
    if dist.get_rank() == 0:  # dcp.save returns when all ranks have written
        written = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        with replacing(temporary / SUMMARY) as file:
            file.write(signed({**facts, "step": step, "files": written}))
        temporary.rename(final)
        sync_folder(folder)


def prepare(folder: Path, step: int, world: World) -> bool:
    """Create the folder of the checkpoint of `step`; False if a complete one exists already. A collective."""
    final, temporary = folder / f"step_{step:08d}", folder / f"step_{step:08d}.tmp"
    if world.agree(int(world.is_first and _is_there(final))):
        return False
    if world.is_first:
        clean(folder)
        temporary.mkdir(parents=True)
    world.barrier("the start of a checkpoint")
    return True


def clean(folder: Path) -> None:
    """Remove the leftovers of killed or failed saves; on one rank."""
    for leftover in folder.glob("*.tmp"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def find(folder: Path, world: World, judge: Callable[[dict[str, Any]], str] = lambda _: "") -> FoundCheckpoint | None:
    """The newest checkpoint in `folder` whose files have the size and sha256 of its summary. A collective.

    Args:
        judge: Called with a summary; returns why that checkpoint can't be used, empty if it can.

    Raises:
        UserError: There are checkpoints, and none is intact.
    """
    rejected: list[str] = []
    latest = None
    for path in candidates(folder) if world.is_first else ():
        wrong = fault(path)
        if not wrong:
            newest = summary(path)
            wrong = judge(newest)
        if not wrong:
            latest = FoundCheckpoint(path, newest, rejected)
            break
        rejected.append(f"{path}: {wrong}")
    latest, rejected = world.from_first(lambda: (latest, rejected))
    if rejected and not latest:
        raise UserError(f"no checkpoint in {folder} is intact: {'; '.join(rejected)}. Start anew in another --run_dir")
    return latest


def load(path: Path, state: State) -> None:
    """Load the tensors of `state` in place, written at any world size. A collective.

    Raises:
        UserError: As `check` does, or the data of a tensor can't be read.
    """
    check(path, state)
    _read(path, state)


def check(path: Path, state: State) -> None:
    """Raise UserError if the headers can't be read, or a tensor of `state` is missing or has another shape."""
    try:
        stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    # Hashes detect damage, not manipulation: a header may contain anything.
    except Exception as error:
        raise UserError(f"{path}: its tensors can't be read ({type(error).__name__}: {error}); {ANEW}") from error
    for name, value in state.items():
        shape = (value.rows, *value.local.shape[1:]) if isinstance(value, Sharded) else tuple(value.shape)
        if name not in stored:
            raise UserError(f"{path} lacks {name}: it was saved from another model or method; {ANEW}")
        stored_shape = tuple(getattr(stored[name], "size", ()))
        if stored_shape != shape:
            raise UserError(f"{path}: {name} has shape {stored_shape}, this configuration needs {shape}; {ANEW}")


def _read(path: Path, state: State) -> None:
    read = staged(state)
    alone = not dist.is_initialized()  # as in a notebook: a world of one, nothing sharded
    try:
        dcp.load(_distributed(read), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=alone)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()), error)
        reason = cause[0] if isinstance(cause, tuple) else cause
        raise UserError(f"{path}: its tensors can't be read ({type(reason).__name__}: {reason}); {ANEW}") from error
    for name, value in state.items():
        _local(value).copy_(_local(read[name]))


def names(path: Path) -> set[str]:
    """Names of the tensors in a checkpoint."""
    return set(HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)


def _local(value: "Tensor | Sharded") -> Tensor:
    return (value.local if isinstance(value, Sharded) else value).detach()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _distributed(state: State, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """The state for torch.distributed.checkpoint, with slices as DTensors.

    The mesh uses an existing group: `init_device_mesh` would create a new one at each call, with two threads and a
    socket each, if CUDA is available and the default group is gloo only.

    Args:
        group: CPU group of all ranks; the default group if None.
    """
    mesh = None
    if dist.is_initialized():
        mesh = DeviceMesh.from_group(group or dist.group.WORLD, "cpu")  # type: ignore[arg-type]
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Sharded):
            shape = torch.Size((value.rows, *value.local.shape[1:]))
            stride = torch.empty(shape, device="meta").stride()
            out[name] = DTensor.from_local(value.local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        else:
            out[name] = value
    return out


def candidates(folder: Path) -> list[Path]:
    """Folders named as checkpoints, complete or damaged, newest first."""
    return sorted((path for path in folder.glob("step_*") if path.suffix != ".tmp"), reverse=True)


def _is_there(path: Path) -> bool:
    """Whether this step has a complete checkpoint, of a run that was killed right after; removes a damaged one."""
    if path.exists() and fault(path):
        shutil.rmtree(path)
    return path.exists()
