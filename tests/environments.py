"""What torchrun tells its ranks, for tests and benchmarks that start them themselves."""

import socket


def environments(count: int, nodes: int = 1) -> list[dict[str, str]]:
    """torchrun's variables for each of `count` ranks that meet on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    local = count // nodes
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank % local), **shared} for rank in range(count)]
