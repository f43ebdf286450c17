"""Compiles the networks of a training step by torch.compile."""

import inspect
import os
import shutil
import sys

import torch
from torch import nn

from dist_plm.errors import UserError


def compiled(network: nn.Module) -> nn.Module:
    """The network with compiled kernels; compilation at the first call takes minutes, and is cached on disk.

    A resumed run must give the result of an uninterrupted one, so kernels only depend on the network and the shape of
    its input: each shape has its own kernels (by default the second shape is compiled with dynamic shapes, which
    depends on the order), each call of this function compiles separately, autotuning is off, and too many shapes are
    an error instead of a silent fallback. For the forward passes of a training step, whose shape never changes;
    embedding passes end with a smaller batch.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    options = {"dynamic": False, "isolate_recompiles": True, "options": {"deterministic": True}}
    return torch.compile(network, **options)  # type: ignore[call-overload]


def check_compiler() -> None:
    """Raise UserError if kernels can't be compiled."""
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
    except Exception as error:  # of the compiler, its headers, or torch: the first step would raise it
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UserError(
            f"runtime.compile can't compile a kernel ({reason[0][:200]}): install the headers of the compiler and of "
            "Python, or disable runtime.compile"
        ) from error
