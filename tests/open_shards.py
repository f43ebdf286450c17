"""Shards that this process has open, below a folder; those of other tests may be closed at any garbage collection."""

import os
from pathlib import Path


def open_shards(folder: Path) -> list[str]:
    """Their paths, one for each descriptor."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return [link for link in links if link.startswith(f"{folder.resolve()}/") and link.endswith(".tar")]
