"""Sharded checkpoints that any number of ranks can read, and that execute nothing when read.

    RUN_DIR/checkpoints/
        step_00000200/                      a complete checkpoint; written as step_00000200.tmp, then renamed
            shard-00001-model-....safetensors   rank 0: its share of the replicated tensors, sharded ones with offsets
            shard-00002-model-....safetensors   rank 1; a large share is several files
            checkpoint.json                     position, fingerprint, versions; size and sha256 of each file, its own

Three verbs: `write` (checkpoint/saver.py calls it beside training), `find` (the newest complete one), `load`. Tensors
travel through torch.distributed.checkpoint with its safetensors storage, which reshards on load; everything that is not
a tensor is in checkpoint.json.
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
FILE_BYTES = 1 << 27  # about: a tensor is in one file
ANEW = "take the settings that it was saved with, or another --run_dir to start anew"


@dataclass(frozen=True)
class Sharded:
    """A rank's rows of a tensor whose `rows` rows are split over the ranks as torch.chunk splits them."""

    local: Tensor
    rows: int


State = Mapping[str, "Tensor | Sharded"]


@dataclass(frozen=True)
class Found:
    """A complete checkpoint, and the newer ones that were passed over, each with what is wrong with it."""

    path: Path
    summary: dict[str, Any]
    rejected: list[str]


def share(state: State, world: World) -> State:
    """What this rank saves: its slices of what is sharded, and as many bytes as the others of what all hold whole.

    So a rank copies and writes 1/W of the networks. Small tensors are the first rank's: they weigh nothing, and where
    statistics of batch norm differ between ranks they stay together.
    """
    sizes = {name: value.nbytes for name, value in state.items() if isinstance(value, Tensor)}
    large = {name: size for name, size in sizes.items() if size >= SMALL_BYTES}
    own = {list(large)[position] for position in balanced(list(large.values()), world.size)[world.rank]}

    def is_mine(name: str) -> bool:
        return isinstance(state[name], Sharded) or (name in own if name in large else world.is_first)

    return {name: value for name, value in state.items() if is_mine(name)}


def staged(state: State) -> dict[str, "Tensor | Sharded"]:
    """A copy in host memory, contiguous as safetensors wants it: what training changes next leaves it alone."""
    return {
        name: Sharded(_copy(value.local), value.rows) if isinstance(value, Sharded) else _copy(value)
        for name, value in state.items()
    }


def file_numbers(state: State, world: World) -> dict[str, int]:
    """The number of the file, from 1 on, that each tensor of the whole state goes to on its rank.

    The writer makes the bytes of a file in memory, twice, beside the copy of its tensors: about 256 MB so.
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
        folder: Holds step_N.tmp, empty, as all ranks have seen.
        state: This rank's share in host memory; see `share` and `staged`.
        numbers: See `file_numbers`.
        facts: What is no tensor, for the summary.
        group: Carries this checkpoint's collectives and nothing else while it is written.
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
    """Make room for the checkpoint of `step`; False if it is there already, saved before a kill. A collective."""
    final, temporary = folder / f"step_{step:08d}", folder / f"step_{step:08d}.tmp"
    if world.agree(int(world.is_first and _is_there(final))):
        return False
    if world.is_first:
        clean(folder)
        temporary.mkdir(parents=True)
    world.barrier("the start of a checkpoint")
    return True


def clean(folder: Path) -> None:
    """Remove what a killed or failed save left behind; on one rank."""
    for leftover in folder.glob("*.tmp"):
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)


def find(folder: Path, world: World, judge: Callable[[dict[str, Any]], str] = lambda _: "") -> Found | None:
    """The newest checkpoint in `folder` whose files all have the size and sha256 that its summary names. A collective.

    Args:
        judge: Called with a summary; what else is wrong with that checkpoint, empty for nothing.

    Raises:
        UserError: there are checkpoints and none is intact.
    """
    rejected: list[str] = []
    found = None
    for path in candidates(folder) if world.is_first else ():
        wrong = fault(path)
        if not wrong:
            told = summary(path)
            wrong = judge(told)
        if not wrong:
            found = Found(path, told, rejected)
            break
        rejected.append(f"{path}: {wrong}")
    found, rejected = world.from_first(lambda: (found, rejected))
    if rejected and not found:
        raise UserError(f"no checkpoint in {folder} is intact: {'; '.join(rejected)}. Start anew in another --run_dir")
    return found


def load(path: Path, state: State) -> None:
    """Fill the tensors of `state` in place from any number of writers. A collective.

    Raises:
        UserError: a tensor is missing or has another shape, with its name.
    """
    try:
        stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    # Hashes tell of damage, not of a stranger who wrote both: his header may be anything.
    except Exception as error:
        raise UserError(f"{path}: its tensors can't be read ({type(error).__name__}: {error}); {ANEW}") from error
    for name, value in state.items():
        shape = (value.rows, *value.local.shape[1:]) if isinstance(value, Sharded) else tuple(value.shape)
        if name not in stored:
            raise UserError(f"{path} lacks {name}: it was saved from another model or method; {ANEW}")
        found = tuple(getattr(stored[name], "size", ()))
        if found != shape:
            raise UserError(f"{path}: {name} has shape {found}, this configuration needs {shape}; {ANEW}")
    read = staged(state)
    alone = not dist.is_initialized()  # as in a notebook, where nothing may be sharded
    try:
        dcp.load(_distributed(read), storage_reader=HuggingFaceStorageReader(str(path)), no_dist=alone)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()), error)
        reason = cause[0] if isinstance(cause, tuple) else cause
        raise UserError(f"{path}: its tensors can't be read ({type(reason).__name__}: {reason}); {ANEW}") from error
    for name, value in state.items():
        _local(value).copy_(_local(read[name]))


def names(path: Path) -> set[str]:
    """Of the tensors in a checkpoint."""
    return set(HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)


def _local(value: "Tensor | Sharded") -> Tensor:
    return (value.local if isinstance(value, Sharded) else value).detach()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _distributed(state: State, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """The state as torch.distributed.checkpoint knows it: slices become tensors of known place in the whole.

    The mesh is made of a group that exists: `init_device_mesh` would make a new one at each call, with two threads and
    a socket for each, where CUDA is available and the default group is gloo's alone.

    Args:
        group: All ranks, on the CPU; the default group if not given.
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
    """Checkpoints by name, complete or broken, the newest first."""
    return sorted((path for path in folder.glob("step_*") if path.suffix != ".tmp"), reverse=True)


def _is_there(path: Path) -> bool:
    """Whether this step was saved before, by a run that was killed right after; a broken one makes way."""
    if path.exists() and fault(path):
        shutil.rmtree(path)
    return path.exists()
