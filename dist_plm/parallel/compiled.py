"""Networks of a training step as fused kernels, by torch.compile."""

import inspect
import os
import shutil
import sys

import torch
from torch import nn

from dist_plm.errors import UserError


def compiled(network: nn.Module) -> nn.Module:
    """The same parameters behind kernels that are made at the first call, which takes minutes, and kept on disk.

    A resumed run must compute what the unbroken one does, so kernels depend on nothing but the network and the shape of
    its input: each shape has its own (the default makes the second shape's kernels general, and so dependent on which
    came first), each call of this function its own again, no order of summation is chosen by a stopwatch, and too many
    shapes are an error instead of a silent return to other kernels. It is for the forwards of a training step, whose
    shape never changes; a sweep ends with a smaller batch.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    options = {"dynamic": False, "isolate_recompiles": True, "options": {"deterministic": True}}
    return torch.compile(network, **options)  # type: ignore[call-overload]


def check_compiler() -> None:
    """Raise UserError where there is nothing to make kernels with."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        raise UserError(f"runtime.compile needs torch 2.14, this is {torch.__version__}: disable it, or upgrade torch")
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"runtime.compile needs a C++ compiler, and {compiler!r} is not on the PATH: install one, set CXX, "
            "or disable runtime.compile"
        )
    try:
        torch.compile(torch.sin)(torch.zeros(8))
    except Exception as error:  # of the compiler, its headers, or torch's own: the first step would end in it
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"runtime.compile can't make a kernel here ({reason[0][:200]}): install the headers of the compiler and of "
            "Python, or disable runtime.compile"
        ) from error
