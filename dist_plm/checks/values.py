"""Values that are wrong whatever the others are: not finite, not text, out of the bounds that the schema states."""

import math

from dist_plm.config import Config
from dist_plm.config.fields import entries
from dist_plm.errors import UserError
from dist_plm.files.names import is_utf8


def check_values(config: Config) -> None:
    """Raise a UserError that names the key."""
    for key, value, rules in entries(config):
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"{key} is {value!a}: it must be UTF-8, for config.yaml and for weights; rename it")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"{key} is {value}: it must be a finite number")
        if fault := rules.fault(value):
            raise UserError(f"{key} is {value}: {fault}")
