"""Hardware of this machine."""

import os
from dataclasses import dataclass

import torch

from dist_plm.config import Config
from dist_plm.data.opening import open_split
from dist_plm.training.auto_precision import has_native_bf16
from dist_plm.training.rehearsal import Rehearsal, rehearse

MOST_CPU_RANKS = 8
CPU_RANK_GB = 4.0  # before it is measured, of a whole network: 2.6 to 3.3 in benchmarks/cpu_speed.md


@dataclass(frozen=True)
class Machine:
    """GPUs, cores and memory that this process may use.

    Args:
        gpus: Number of GPUs; 0: the CPU computes.
        gpu: Name of the first.
        cores: CPU cores.
        memory_gb: Available memory, 10^9 bytes.
        bf16: Whether bf16 is native.
        gpu_gb: Free memory of the first GPU, 10^9 bytes.
    """

    gpus: int
    gpu: str
    cores: int
    memory_gb: float
    bf16: bool
    gpu_gb: float = 0.0

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = torch.device("cuda" if gpus else "cpu")
        name = torch.cuda.get_device_name(0) if gpus else ""
        free = torch.cuda.mem_get_info(0)[0] / 1e9 if gpus else 0.0
        return cls(gpus, name, len(os.sched_getaffinity(0)), available_gb(), has_native_bf16(device), free)

    def rehearsal(self, config: Config, ranks: int) -> Rehearsal:
        """Some passes of a configuration, with the threads of one of the ranks; takes some seconds.

        Raises:
            UserError: The network takes no images of this size.
        """
        threads = torch.get_num_threads()
        if not self.gpus:
            torch.set_num_threads(config.runtime.threads or max(1, self.cores // ranks))
        try:
            with open_split(config.data, config.data.train_split) as store:
                return rehearse(config, store, ranks)
        finally:
            torch.set_num_threads(threads)

    def ranks(self, *, whole: bool, images: int, rank_gb: float = CPU_RANK_GB) -> tuple[int, str]:
        """How many ranks to start, and why.

        Args:
            whole: Whether the backbone trains; a head on cached features computes too little to share.
            images: Images of a batch.
            rank_gb: Memory of a rank.
        """
        if self.gpus:
            return min(self.gpus, images), "one a GPU"
        if not whole:
            return 1, f"{self.cores} threads; a head trains in seconds"
        most = min(self.cores, MOST_CPU_RANKS, images // 8, int(self.memory_gb / rank_gb))
        if most < 2:
            return 1, f"{self.cores} threads"
        # Two ranks of one thread train 74.6 images/s, one of two threads 43.4, on two cores (benchmarks/cpu_speed.md).
        return most, f"of {max(1, self.cores // most)} thread(s), faster than one of {self.cores} (cpu_speed.md)"

    def __str__(self) -> str:
        computes = f"{self.gpus} x {self.gpu}" if self.gpus else "no GPU"
        arithmetic = "bf16" if self.bf16 else "fp32"
        return f"{computes}, {self.cores} CPU cores, {self.memory_gb:.0f} GB of memory free, {arithmetic}"


def available_gb() -> float:
    """Available memory without swapping, GB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return found["MemAvailable"] * 1024 / 1e9
    except (OSError, LookupError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
