"""Process settings that must precede the import of torch: malloc's retention of memory, waiting OpenMP threads."""

import ctypes
import os
import sys

# mallopt's parameters (glibc, malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_PAD = 1 << 28  # bytes by which the heap grows at a time
_CHOSEN = ("TRIM_THRESHOLD", "TOP_PAD", "MMAP_MAX", "MMAP_THRESHOLD")  # a user may set these for glibc as MALLOC_NAME_

# libgomp and Intel's libiomp read these when they are loaded. Threads that spin between two parallel regions take
# CPU time from decoding threads and other ranks.
_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def prepare_process() -> None:
    """Keep freed memory in the process, and let idle OpenMP threads sleep; settings of the environment take precedence.

    By default glibc maps each large tensor anew and returns it to the system when it is freed, and the kernel zeroes
    every page again at the next step: half of the CPU time of a training step on 112 px. The peak of resident memory is
    that of the largest step plus fragmentation (benchmarks/cpu_speed.md). No effect without glibc.
    """
    for name, value in _OPENMP.items():
        os.environ.setdefault(name, value)
    if sys.platform != "linux" or any(f"MALLOC_{name}_" in os.environ for name in _CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, _PAD)


def limit_threads(threads: int) -> None:
    """Set the number of compute threads of torch and FAISS; 0 keeps their defaults."""
    import torch

    if threads:
        torch.set_num_threads(threads)
        if faiss := sys.modules.get("faiss"):  # imported later, it takes torch's number (index.proposals.prepare)
            faiss.omp_set_num_threads(threads)
