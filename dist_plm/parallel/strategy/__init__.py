"""How what is learnt lies on the ranks. `build_strategy` is the registry."""

import torch
from torch import nn

from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.parallel.optimiser import Updates
from dist_plm.parallel.strategy.base import PRECISIONS, Strategy
from dist_plm.parallel.strategy.data_parallel import DataParallel
from dist_plm.parallel.strategy.reproducible import Reproducible
from dist_plm.parallel.strategy.zero import Zero

__all__ = ["PRECISIONS", "DataParallel", "Reproducible", "Strategy", "Zero", "build_strategy", "method_dtype"]


def build_strategy(config: Config, student: nn.Module, teacher: nn.Module, updates: Updates, world: World) -> Strategy:
    """The strategy called `runtime.strategy`, around the student and, where that is cut, the momentum encoder."""
    precision, micro_batches = config.train.precision, config.batch.micro_batches
    if config.runtime.strategy == "deepspeed":
        zero = config.runtime.zero
        return Zero(student, teacher, updates, world, zero, precision=precision, micro_batches=micro_batches)
    if config.runtime.strategy == "reproducible":
        piece = config.batch.images * config.views.count // config.runtime.lanes
        return Reproducible(student, updates, world, precision=precision, piece=piece)
    compile = config.runtime.compile
    return DataParallel(student, updates, world, precision=precision, micro_batches=micro_batches, compile=compile)


def method_dtype(config: Config) -> torch.dtype:
    """Number format in which a method gets z and f_phi and keeps its own parameters."""
    double = config.train.precision == "fp64" or config.runtime.strategy == "reproducible"
    return torch.float64 if double else torch.float32
