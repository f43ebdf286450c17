"""Plans on disk: .npy files, written atomically, verified by hash, and memory-mapped."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.files.reading import file_digest, map_array


def save_plan(path: str | Path, plan: np.ndarray) -> str:
    """Write a plan as .npy atomically and deterministically. Returns the sha256 in hex."""
    return save_blocks(path, plan.shape, (plan,))


def save_blocks(path: str | Path, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> str:
    """As `save_plan`, for a plan of this shape that arrives in blocks.

    Raises:
        ValueError: The blocks don't add up to this shape.
    """
    header = {"descr": "<i8", "fortran_order": False, "shape": tuple(shape)}
    entries = 0
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype="<i8").data)
            entries += block.size
        if entries != np.prod(shape, dtype=np.int64):
            raise ValueError(f"{entries} entries of a plan {shape}")
    return str(file_digest(Path(path))["sha256"])


def load_plan(path: str | Path, sha256: str) -> np.ndarray:
    """Memory-map a saved plan, read-only; UserError if the file is missing or has another hash."""
    try:
        digest = file_digest(Path(path))["sha256"]
    except OSError as error:
        raise UserError(
            f"cannot read the plan {path} ({error.strerror}): restore it, or start in another run_dir"
        ) from error
    if digest != sha256:
        raise UserError(
            f"the plan {path} is not the one that was saved (sha256 {digest[:12]}, not {sha256[:12]}): "
            "restore it, or start in another run_dir"
        )
    try:
        plan = map_array(Path(path))
        if plan.dtype != np.dtype("<i8"):
            raise ValueError(f"numbers of type {plan.dtype}")
    except ValueError as error:  # a manipulated file may have the right hash
        raise UserError(f"the plan {path} can't be read ({error}): restore it, or start in another run_dir") from error
    return plan


def check_ids(plan: np.ndarray, path: str | Path, *, dims: int, below: int, least: int = 0) -> np.ndarray:
    """`plan`, if it has `dims` dimensions and its numbers are from `least` to `below` - 1; else UserError.

    A hash tells of damage alone: whoever writes a file can write a hash that fits. A negative id would read an image
    from the end of the data set.
    """
    fault = ""
    if plan.ndim != dims or plan.size == 0:
        fault = f"shape {plan.shape}, not {dims} dimensions"
    elif plan.min() < least or plan.max() >= below:
        fault = f"numbers from {plan.min()} to {plan.max()}, not from {least} to {below - 1}"
    if fault:
        raise UserError(f"the plan {path} can't be read ({fault}): restore it, or start in another run_dir")
    return plan
