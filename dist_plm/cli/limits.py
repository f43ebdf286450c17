"""Sizes beyond which nothing is built: a stranger's configuration or export may ask for any."""

from dataclasses import asdict

from dist_plm.config import Config, flat
from dist_plm.errors import UserError

MOST = {
    "seed": 2**31 - 1,  # of faiss
    "runtime.timeout_seconds": 10**7,  # four months; torch counts nanoseconds in 64 bits
    "model.dim": 2**16,
    "model.wide_dim": 2**16,
    "manifold.dim": 2**16,
    "views.size": 2**12,
    "views.resize": 2**12,
    "views.count": 2**10,
    "data.workers": 2**10,
    "evaluation.batch_size": 2**16,
    "runtime.threads": 2**12,
}


def check_limits(config: Config) -> None:
    """Raise a UserError that names the first key above its limit."""
    values = flat(asdict(config))
    for key, most in MOST.items():
        if key in values and isinstance(values[key], int | float) and values[key] > most:
            raise UserError(f"{key} is {values[key]}: it must be {most} at most")
