"""Number format of the method: float32 or float64 for a whole call, also inside an autocast region."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextmanager
def ieee_products() -> Iterator[None]:
    """Context with IEEE precision of float32 matrix products on a GPU, whatever the process-wide setting."""
    matmul = torch.backends.cuda.matmul
    chosen = matmul.fp32_precision
    if chosen != "tf32":  # parts of torch still read the older flags, and refuse to once this one was written
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = chosen


def full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Switch autocast off inside `function`, and raise ValueError for half precision or mixed formats.

    In bfloat16 the inner product of two unit vectors is off by 4e-3, so that every distance below .06 is noise. TF32 is
    as coarse, and is switched off as well.
    """

    @wraps(function)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        formats = {tensor.dtype for tensor in floating}
        if formats not in ({torch.float32}, {torch.float64}):
            names = ", ".join(sorted(str(dtype) for dtype in formats)) or "no floating-point tensor"
            name = function.__name__
            raise ValueError(f"{name} needs all its tensors in float32 or all in float64, not {names}")
        device = floating[0].device.type
        autocast = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with autocast, ieee_products():
            return function(*args, **kwargs)

    return guarded
