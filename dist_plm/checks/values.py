"""Checks of single values: finite, valid UTF-8, within the bounds of the schema."""

import math
from typing import Any

from dist_plm.config import Config
from dist_plm.config.fields import Rules, entries
from dist_plm.errors import UserError
from dist_plm.files.names import is_utf8


def check_values(config: Config) -> None:
    """Raise a UserError that names the key."""
    for key, value, rules in entries(config):
        if isinstance(value, str) and not is_utf8(value):
            raise UserError(f"{key} is {value!a}: it must be UTF-8; rename it")
        numbers = value if isinstance(value, list | tuple) else [value]
        if rules.filled and not numbers:
            raise UserError(f"{key} is {value}: it must not be empty")
        for number in numbers:
            _check_number(key, value, number, rules)


def _check_number(key: str, value: Any, number: Any, rules: Rules) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{key} is {value}: it must be a finite number")
    if rules.above is not None and number <= rules.above:
        raise UserError(f"{key} is {value}: it must be greater than 0")
    if rules.least is not None and rules.most == 1 and not rules.least <= number <= rules.most:
        raise UserError(f"{key} is {value}: it must lie in [0, 1]")
    if rules.least is not None and rules.below is not None and not rules.least <= number < rules.below:
        raise UserError(f"{key} is {value}: it must lie in [0, 1)")
    if rules.least is not None and number < rules.least:
        raise UserError(f"{key} is {value}: it can't be negative")
    if rules.most is not None and number > rules.most:
        raise UserError(f"{key} is {value}: it must be {rules.most} at most")
