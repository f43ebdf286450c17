"""Parallel strategies. `build_strategy` is the registry."""

import torch
from torch import nn

from dist_plm.config import Config
from dist_plm.distributed.shares import Shares, batch_shares, lanes
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.base import PRECISIONS, Strategy
from dist_plm.parallel.strategy.data_parallel import DataParallel
from dist_plm.parallel.strategy.reproducible import Reproducible
from dist_plm.parallel.strategy.zero import Zero

__all__ = [
    "PRECISIONS",
    "DataParallel",
    "Reproducible",
    "Strategy",
    "Zero",
    "build_strategy",
    "cuts_weights",
    "method_dtype",
]


def build_strategy(config: Config, student: nn.Module, teacher: nn.Module, updates: Updates, world: World) -> Strategy:
    """The strategy called `runtime.strategy`, around the student and, if sharded, the momentum encoder."""
    precision, views = config.train.precision, config.views.count
    micro_batches = min(config.batch.micro_batches, views * min(batch_shares(config, world.size).sizes))
    if config.runtime.strategy == "deepspeed":
        zero = config.runtime.zero
        return Zero(student, teacher, updates, world, zero, precision=precision, micro_batches=micro_batches)
    if config.runtime.strategy == "reproducible":
        pieces = lanes(config).times(views).sizes
        pieces = pieces[Shares.even(len(pieces), world.size).rows(world.rank)]
        return Reproducible(student, updates, world, precision=precision, pieces=pieces)
    compile = config.runtime.compile
    return DataParallel(student, updates, world, precision=precision, micro_batches=micro_batches, compile=compile)


def cuts_weights(config: Config) -> bool:
    """Whether the networks' weights are sharded over the ranks outside of a forward pass."""
    return config.runtime.strategy == "deepspeed" and config.runtime.zero.stage == 3


def method_dtype(config: Config) -> torch.dtype:
    """Number format of a method's inputs z and f_phi and its parameters."""
    double = config.train.precision == "fp64" or config.runtime.strategy == "reproducible"
    return torch.float64 if double else torch.float32
