"""Runs a function on W gloo ranks, each in a process of its own, and brings the results home."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dist_plm.config import RuntimeConfig
from tests.commands import SERVER

PATIENCE_SECONDS = 240


def on_ranks(size: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(world, *arguments)` on ranks 0..size-1; the results in that order; fails with what a rank raised."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    ranks = [
        SERVER.Process(target=_rank, args=(rank, size, port, folder, function, arguments), daemon=True)
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(PATIENCE_SECONDS)
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


def _rank(rank: int, size: int, port: int, folder: Path, function: Callable[..., Any], arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    from dist_plm.distributed.connection import connect, disconnect

    try:
        world = connect(RuntimeConfig(device="cpu", threads=1, timeout_seconds=60))
        outcome = (True, function(world, *arguments))
        disconnect(world)
    except BaseException:
        outcome = (False, traceback.format_exc())
    (folder / f"rank_{rank}.pkl").write_bytes(pickle.dumps(outcome))
