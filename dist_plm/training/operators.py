"""Counts the operators that the host launches in a step, which bound a small step on a fast GPU."""

from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dist_plm.config import Config
from dist_plm.data.loader import Batch
from dist_plm.distributed.world import World
from dist_plm.methods import METHODS
from dist_plm.training.learner import Learner, phases

HOST_SECONDS = 2e-5
"""Of the host for an operator, at most: the 980 of a step of the network `small` on 12 views of 8 pixels took 19 ms of
CPU time with what they compute (Intel Xeon, one thread of a busy machine, torch 2.14.1)."""


class _Counted(TorchDispatchMode):
    """Counts the operators that launch something: views and metadata queries do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        self.count += not (function.is_view or str(function).startswith("prim."))
        return function(*arguments, **(keywords or {}))


def operators_of_step(config: Config) -> int:
    """Operators of a step of the method's phase, counted on tensors without values: however many images a rank has.

    The selection of neighbours counts in its torch form, which launches more than the Triton kernel. Collectives are
    left out. 0 where a step needs values: supervised methods and pseudo-labels, or views that are cached.
    """
    if config.views.cached or METHODS[config.train.method].batches in ("classes", "clusters"):
        return 0
    runtime = replace(config.runtime, strategy="ddp", compile=False)
    precision = "bf16" if config.train.precision == "auto" else config.train.precision
    model, train = replace(config.model, weights=""), replace(config.train, precision=precision)
    config = replace(config, model=model, runtime=runtime, train=train)
    learner = Learner(config, World(), phases(config)[-1])
    images, size, manifold = config.batch.images, config.views.size, config.manifold
    with FakeTensorMode(allow_non_fake_inputs=True):
        views = torch.zeros(images * config.views.count, 3, size, size, dtype=torch.uint8)
        around = torch.zeros(images, manifold.k, config.model.dim) if manifold.scope == "gallery" else None
        batch = Batch(0, torch.arange(images), views, neighbours=around)
        with _Counted() as counted:
            learner.step(batch, 0, 100)
    return counted.count


def operators_row(config: Config, step_seconds: float = 0.0) -> list[tuple[str, str]]:
    """The line of `--plan`; none where they were not counted.

    Args:
        step_seconds: Of a step, where it is known: below the host's time, the host is what bounds it.
    """
    count = operators_of_step(config)
    if not count:
        return []
    host, mend = HOST_SECONDS * count, "more images a rank, fewer ranks, or --runtime.compile true"
    text = f"{count:,} a step, up to {1e3 * host:,.0f} ms of the host"
    if config.runtime.compile:
        return [("operators", f"{text}; fewer by runtime.compile")]
    if not step_seconds:
        return [("operators", f"{text}: a GPU that is done sooner waits for the host ({mend})")]
    bound = f": the host may be what bounds it ({mend})" if host > step_seconds else ""
    return [("operators", f"{text}; a step takes {1e3 * step_seconds:,.0f} ms{bound}")]
