"""Values that are wrong whatever the others are: not finite, not text, negative, beyond what can be counted."""

import math
from dataclasses import asdict
from typing import Any

from dist_plm.cli.limits import check_limits
from dist_plm.config import Config, flat
from dist_plm.errors import UserError
from dist_plm.files.names import is_utf8

POSITIVE = (
    "data.workers", "data.prefetch", "data.cache_gb", "data.retry_seconds", "views.size", "views.count", "model.dim",
    "batch.groups", "batch.group_size", "batch.refresh_epochs", "batch.micro_batches", "manifold.dim", "manifold.k",
    "loss.delta", "optimiser.lr", "warm_up.lr", "warm_up.temperature", "train.epochs", "train.evaluate_epochs",
    "train.log_steps", "evaluation.ks", "evaluation.batch_size", "checkpoint.every_steps", "checkpoint.keep",
    "runtime.timeout_seconds", "index.nprobe", "index.nprobe_max", "index.recall_sample", "index.memory_gb",
    "optimiser.layer_decay",
)  # fmt: skip
SHARES = ("model.momentum", "manifold.threshold", "views.flip", "index.recall_floor")
NOT_NEGATIVE = (
    "seed", "data.decoded_side", "proxies.count", "batch.epoch_steps", "warm_up.epochs", "train.max_steps",
    "runtime.threads", "optimiser.clip_norm", "views.cached",
)  # fmt: skip


def check_values(config: Config) -> None:
    """Raise a UserError that names the key."""
    check_limits(config)
    for key, value in flat(asdict(config)).items():
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"{key} is {value!a}: it must be UTF-8, for config.yaml and for weights; rename it")
        numbers = value if isinstance(value, list | tuple) else [value]
        if key in POSITIVE and not numbers:
            raise UserError(f"{key} is {value}: it must hold a number")
        for number in numbers:
            _check_number(key, value, number)


def _check_number(key: str, value: Any, number: Any) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{key} is {value}: it must be a finite number")
    if key in POSITIVE and number <= 0:
        raise UserError(f"{key} is {value}: it must be greater than 0")
    if key in SHARES and not 0 <= number <= 1:
        raise UserError(f"{key} is {value}: it must lie in [0, 1]")
    if key in NOT_NEGATIVE and number < 0:
        raise UserError(f"{key} is {value}: it can't be negative")
