"""`train.precision: auto`: bf16 on hardware with native support, else fp32; a resumed run keeps its precision."""

from dataclasses import replace
from pathlib import Path

import torch

from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.distributed.world import World

# CPU flags of Linux. Without one of these oneDNN converts bf16 to fp32 and back, which is slower than fp32.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def resolve_precision(config: Config, world: World) -> tuple[Config, str]:
    """The configuration with `auto` resolved, and the reason for the choice. A collective.

    Under `runtime.strategy: reproducible` `auto` is fp32: results must not depend on the CPU model.

    Raises:
        UserError: The run directory holds an unreadable config.yaml.
    """
    stored = Path(config.run_dir) / "config.yaml"
    native = not world.agree(int(not has_native_bf16(world.device)))
    precision, reason = config.train.precision, "as configured"
    if precision == "auto" and stored.exists():
        precision, reason = load_config(stored).train.precision, "as stored in the run"
    elif precision == "auto" and config.runtime.strategy == "reproducible":
        precision, reason = "fp32", "auto, strategy reproducible"
    elif precision == "auto":
        precision, reason = ("bf16", "auto, native bf16") if native else ("fp32", "auto, no native bf16")
    if precision == "bf16" and not native:
        reason += "; emulated on this hardware, slower than fp32"
    return replace(config, train=replace(config.train, precision=precision)), reason


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device has native bf16: GPUs from Ampere on, x86 CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    return any(_CPU_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))
