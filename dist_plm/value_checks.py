"""Values that are wrong whatever the others are: not finite, negative, beyond what can be counted."""

import math
from dataclasses import asdict

from dist_plm.cli import is_utf8
from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.run_directory import flat

MOST_SECONDS = 10**7  # of a wait, four months; torch counts nanoseconds in 64 bits
MOST_SEED = 2**63 - 1


def check_values(config: Config) -> None:
    """Raise a UserError that names the key."""
    for key, value in flat(asdict(config)).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{key} is {value}: it must be a finite number")
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"{key} is {value!a}: it must be UTF-8, for config.yaml and for weights; rename it")
    positive = {
        "data.workers": config.data.workers,
        "data.prefetch": config.data.prefetch,
        "views.size": config.views.size,
        "views.count": config.views.count,
        "model.dim": config.model.dim,
        "batch.groups": config.batch.groups,
        "batch.group_size": config.batch.group_size,
        "batch.refresh_epochs": config.batch.refresh_epochs,
        "batch.micro_batches": config.batch.micro_batches,
        "manifold.dim": config.manifold.dim,
        "manifold.k": config.manifold.k,
        "loss.delta": config.loss.delta,
        "optimiser.lr": config.optimiser.lr,
        "warm_up.lr": config.warm_up.lr,
        "warm_up.temperature": config.warm_up.temperature,
        "train.epochs": config.train.epochs,
        "train.evaluate_epochs": config.train.evaluate_epochs,
        "train.log_steps": config.train.log_steps,
        "evaluation.ks": min(config.evaluation.ks, default=0),
        "evaluation.batch_size": config.evaluation.batch_size,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "checkpoint.keep": config.checkpoint.keep,
        "runtime.timeout_seconds": config.runtime.timeout_seconds,
        "data.cache_gb": config.data.cache_gb,
        "data.retry_seconds": config.data.retry_seconds,
        "index.nprobe": config.index.nprobe,
        "index.nprobe_max": config.index.nprobe_max,
        "index.recall_sample": config.index.recall_sample,
        "index.memory_gb": config.index.memory_gb,
    }
    for key, value in positive.items():
        if value <= 0:
            raise UserError(f"{key} is {value}: it must be greater than 0")
    shares = {
        "model.momentum": config.model.momentum,
        "manifold.threshold": config.manifold.threshold,
        "views.flip": config.views.flip,
        "index.recall_floor": config.index.recall_floor,
    }
    for key, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"{key} is {value}: it must lie in [0, 1]")
    counts = {
        "seed": config.seed,
        "data.decoded_side": config.data.decoded_side,
        "proxies.count": config.proxies.count,
        "batch.epoch_steps": config.batch.epoch_steps,
        "warm_up.epochs": config.warm_up.epochs,
        "train.max_steps": config.train.max_steps,
        "runtime.threads": config.runtime.threads,
        "optimiser.clip_norm": config.optimiser.clip_norm,
    }
    for key, count in counts.items():
        if count < 0:
            raise UserError(f"{key} is {count}: it can't be negative")
    bounds = {
        "seed": (config.seed, MOST_SEED),
        "runtime.timeout_seconds": (config.runtime.timeout_seconds, MOST_SECONDS),
    }
    for key, (value, most) in bounds.items():
        if value > most:
            raise UserError(f"{key} is {value}: it must be {most} at most")
