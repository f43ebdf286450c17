"""Which device a rank computes on, and the settings of the process that must precede the first use of a GPU."""

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
    """The device of this rank, made the current one.

    Raises:
        MachineError: a GPU was asked for, or is evidently here, and can't be used.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if config.strategy == "reproducible":
        # cuBLAS reads it when it makes its first handle: two buffers of fixed size and no choice by free memory.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not available:
        _refuse_unusable(config)
        return torch.device("cpu")
    # Slurm may show each task its own GPU alone (--gpus-per-task, --gpu-bind): that is number 0 to all of them.
    number = 0 if available == 1 and "SLURM_PROCID" in os.environ else local_rank
    if number >= available:
        raise MachineError(
            f"local rank {local_rank} has no GPU: this machine has {available}. "
            f"Start {available} processes a node, or set --runtime.device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _refuse_unusable(config: RuntimeConfig) -> None:
    """A run that should have had GPUs must not train on the CPU without a word."""
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
    """What says that this process was meant to have a GPU, in words; empty where nothing does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return ""  # hidden on purpose
    found = [
        f"{name}={os.environ[name]}" for name in ("SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES") if os.environ.get(name)
    ]
    if DRIVER.exists():
        version = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text(encoding="utf-8", errors="replace"))
        found.insert(0, f"NVIDIA driver {version.group(1) if version else 'of unknown version'}")
    return ", ".join(found)


def set_arithmetic(*, precision: str, reproducible: bool, device: torch.device) -> None:
    """How this process multiplies float32, and whether its kernels may add up in an order that varies.

    cuDNN's convolutions are TF32 by default, whose 10 bits of mantissa are neither what `fp32` says nor enough for the
    band of the local response norm. `reproducible` also forbids kernels that add with atomics or are chosen by timing.

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
        # A warning names an operation that has no such kernel: the promise of equal bits does not hold for it.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
