"""What several benchmarks and tests share: the machine in words, ranks on this machine, and what a run left behind.

Imports nothing heavy at the top: the peak memory of a process is inherited by the processes that it starts.
"""

import json
import os
import pickle
import platform
import secrets
import socket
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RANK_SECONDS = 240  # until a rank of `on_ranks` is killed
# Ranks are forked from a process that has imported everything: a start takes a second of CPU time, not seven.
PRELOAD = ["deepspeed.runtime.engine", "dist_plm.train", "dist_plm.training.trainer", "faiss", "sklearn.cluster",
           "torch._dynamo", "torch.distributed.launcher.api", "torch.utils.tensorboard",
           "webdataset.tariterators"]  # fmt: skip
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(PRELOAD)

# Values of events that depend on the speed of the machine, and events that depend on when a run was stopped.
TIMES = {"images_per_second", "wait_share", "seconds", "memory_gb", "build_seconds", "search_seconds", "exact_seconds"}


def machine() -> str:
    """Processor, cores and memory."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{named[0] if named else platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"


def free_port() -> int:
    """A port to listen on, below those of outgoing connections (32768 and up on Linux): one might take it first."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", port))
            return port


def environments(count: int, nodes: int = 1) -> list[dict[str, str]]:
    """torchrun's variables for each of `count` ranks that meet on this machine."""
    port, local = str(free_port()), count // nodes
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank % local), **shared} for rank in range(count)]


def fork(function: Callable[..., Any], *arguments: Any, daemon: bool = False) -> "ForkServerProcess":
    """Start a function in a process of one compute thread that has imported PRELOAD."""
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")  # the server starts at its first use and inherits them
    process = SERVER.Process(target=function, args=arguments, daemon=daemon)
    process.start()
    return process


def on_ranks(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(world, *arguments)` on `size` gloo ranks, each a process; the results in the order of the ranks.

    Args:
        folder: For the pickled results.

    Raises:
        AssertionError: A rank raised or died; the message holds its traceback.
    """
    ranks = [fork(_rank, environment, folder, function, arguments, daemon=True) for environment in environments(size)]
    for process in ranks:
        process.join(RANK_SECONDS)
        if process.is_alive():
            process.kill()
    results = []
    for rank in range(size):
        path = folder / f"rank_{rank}.pkl"
        assert path.exists(), f"rank {rank} left nothing (exit {ranks[rank].exitcode})"
        ok, value = pickle.loads(path.read_bytes())
        assert ok, f"rank {rank} failed:\n{value}"
        results.append(value)
        path.unlink()
    return results


def _rank(environment: dict[str, str], folder: Path, function: Callable[..., Any], arguments: tuple) -> None:
    os.environ |= environment
    from dist_plm.config import RuntimeConfig
    from dist_plm.distributed.connection import connect, disconnect

    try:
        world = connect(RuntimeConfig(device="cpu", threads=1, timeout_seconds=60))
        outcome = (True, function(world, *arguments))
        disconnect(world)
    except BaseException:
        outcome = (False, traceback.format_exc())
    (folder / f"rank_{environment['RANK']}.pkl").write_bytes(pickle.dumps(outcome))


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for is a zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def family(pid: int) -> list[int]:
    """A process, its children, and theirs."""
    children = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def build_demo(folder: Path, images: int = 200, seed: int = 0) -> Path:
    """A data set of glyphs: half of the images train, the others test; each split in five shards."""
    from dist_plm.datasets import build

    line = ["demo", "--images", images, "--size", 32, "--classes", 8, "--shard-size", 4.3e-5 * images,
            "--workers", 1, "--seed", seed, "--out", folder]  # fmt: skip
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        assert build.main([*map(str, line)]) == 0, said.getvalue()
    return folder


def events(run: Path, kind: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of one kind or all; an incomplete last line is left out."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if kind in ("", line["event"])]


def timeless(run: Path) -> list[dict[str, Any]]:
    """All events without what depends on the machine's speed, and without those that say when it was stopped."""
    from dist_plm.telemetry.metrics import INCIDENTS

    kept = [event for event in events(run) if event["event"] not in {*INCIDENTS, "warning"}]
    return [{key: value for key, value in event.items() if key not in TIMES} for event in kept]


def tensors(run: Path) -> "dict[str, Tensor]":
    """All tensors of a run's newest checkpoint, whole, whatever the number of ranks that wrote it."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    from dist_plm.checkpoint import checkpoint
    from dist_plm.distributed.world import World

    found = checkpoint.find(run / "checkpoints", World())
    assert found is not None and not found.rejected
    stored: dict[str, Any] = dict(HuggingFaceStorageReader(str(found.path)).read_metadata().state_dict_metadata)
    state = {name: torch.empty(tuple(each.size), dtype=each.properties.dtype) for name, each in stored.items()}
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(found.path)), no_dist=True)
    return state
