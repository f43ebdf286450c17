"""Bounds of single values hold for keys that are there."""

from dataclasses import asdict

from dist_plm.checks import values
from dist_plm.cli import limits
from dist_plm.config import Config, flat


def test_every_key_with_a_bound_is_one_of_the_schema():
    bounded = {*values.POSITIVE, *values.SHARES, *values.NOT_NEGATIVE, *limits.MOST}
    assert bounded <= flat(asdict(Config())).keys()
