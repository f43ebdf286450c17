"""Upper bounds of sizes, since configurations and exports may be untrusted."""

from dist_plm.config import Config
from dist_plm.config.fields import entries
from dist_plm.errors import UserError


def check_limits(config: Config) -> None:
    """Raise a UserError that names the first key above its limit."""
    for key, value, rules in entries(config):
        if rules.most is not None and isinstance(value, int | float) and value > rules.most:
            raise UserError(f"{key} is {value}: it must be {rules.most} at most")
