"""Device selection, and process settings that must precede the first use of a GPU."""

import os
import re
from pathlib import Path

import torch

from dist_plm.config import RuntimeConfig
from dist_plm.errors import MachineError

DRIVER = Path("/proc/driver/nvidia/version")
# The oldest driver of each CUDA major version (CUDA release notes, table 3).
LEAST_DRIVER = {11: "450.80", 12: "525.60", 13: "580"}


def choose_device(config: RuntimeConfig, local_rank: int) -> torch.device:
    """The device of this rank, set as the current one.

    Raises:
        MachineError: A GPU was requested or is present, but can't be used.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if config.strategy == "reproducible":
        # cuBLAS reads it with its first handle: two workspaces of fixed size make its choice of kernels deterministic.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not available:
        _refuse_unusable(config)
        return torch.device("cpu")
    # Slurm may make only one GPU visible to each task (--gpus-per-task, --gpu-bind): its index is 0 in all of them.
    number = 0 if available == 1 and "SLURM_PROCID" in os.environ else local_rank
    if number >= available:
        raise MachineError(
            f"local rank {local_rank} has no GPU: this machine has {available}. "
            f"Start {available} processes a node, or set --runtime.device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _refuse_unusable(config: RuntimeConfig) -> None:
    """Raise MachineError instead of silently training on the CPU of a machine that has an unusable GPU."""
    evidence = gpu_evidence()
    if config.device == "cuda" and not evidence:
        raise MachineError("runtime.device is cuda and this machine has no NVIDIA GPU: set --runtime.device cpu")
    if not evidence:
        return
    if torch.version.cuda is None:
        raise MachineError(
            f"there is a GPU here ({evidence}) and torch {torch.__version__} was built without CUDA: install a CUDA "
            "build of torch, or set --runtime.device cpu"
        )
    least = LEAST_DRIVER.get(int(torch.version.cuda.partition(".")[0]), "a newer one")
    raise MachineError(
        f"there is a GPU here ({evidence}) that torch {torch.__version__} can't use: CUDA {torch.version.cuda} needs "
        f"NVIDIA driver {least} or newer. Update the driver, install a torch for an older CUDA, or set "
        "--runtime.device cpu"
    )


def gpu_evidence() -> str:
    """Why this process is expected to have a GPU, for a message; empty if there is no sign of one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return ""  # hidden on purpose
    evidence = [
        f"{name}={os.environ[name]}" for name in ("SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES") if os.environ.get(name)
    ]
    if DRIVER.exists():
        version = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text(encoding="utf-8", errors="replace"))
        evidence.insert(0, f"NVIDIA driver {version.group(1) if version else 'of unknown version'}")
    return ", ".join(evidence)


def set_arithmetic(*, precision: str, reproducible: bool, device: torch.device) -> None:
    """Set the float32 precision of matrix products and convolutions, and whether kernels must be deterministic.

    cuDNN's convolutions use TF32 by default. Its 10-bit mantissa contradicts `fp32`, and is too coarse for the local
    response normalisation. `reproducible` also disables kernels that use atomics, and autotuning.

    Args:
        precision: `tf32` multiplies and convolves in TF32; anything else leaves float32 at IEEE precision.
    """
    if device.type != "cuda":
        return
    product = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = product
    torch.backends.cudnn.conv.fp32_precision = product  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = product  # type: ignore[attr-defined]
    if reproducible:
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        # torch warns about operations without a deterministic kernel: their results may differ in the last bits.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
