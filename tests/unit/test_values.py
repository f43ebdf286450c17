"""Bounds and resume rules are stated with the fields of the schema."""

from dataclasses import replace

import pytest

from dist_plm.checks import settings
from dist_plm.checks.values import check_values
from dist_plm.config import Config, DadaConfig, EvaluationConfig, OptimiserConfig, RuntimeConfig
from dist_plm.config.fields import Rules, entries
from dist_plm.errors import UserError

RULES = {key: rules for key, _, rules in entries(Config())}


def test_the_defaults_are_within_their_bounds():
    check_values(Config())
    assert sum(rules != Rules() for rules in RULES.values()) > 60


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"seed": -1}, "seed is -1: it can't be negative"),
        ({"seed": 2**31}, "seed is 2147483648: it must be 2147483647 at most"),
        ({"dada": DadaConfig(dropout=1.0)}, r"dada.dropout is 1.0: it must lie in \[0, 1\)"),
        ({"dada": DadaConfig(mix=(0.0, 1.0))}, r"dada.mix is \(0.0, 1.0\): it must be greater than 0"),
        ({"dada": DadaConfig(balance=-0.1)}, r"dada.balance is -0.1: it must lie in \[0, 1\]"),
        ({"evaluation": EvaluationConfig(ks=[])}, r"evaluation.ks is \[\]: it must not be empty"),
        ({"optimiser": OptimiserConfig(lr=float("nan"))}, "optimiser.lr is nan: it must be a finite number"),
        ({"runtime": RuntimeConfig(timeout_seconds=0)}, "runtime.timeout_seconds is 0: it must be greater than 0"),
    ],
)
def test_what_is_out_of_bounds_is_refused(section, told):
    with pytest.raises(UserError, match=told):
        check_values(replace(Config(), **section))


def test_what_a_resumed_run_may_change_is_free():
    assert RULES["data.workers"].free and RULES["runtime.zero.stage"].free and RULES["checkpoint.keep"].free
    assert not any(RULES[key].free for key in ("seed", "optimiser.lr", "batch.groups", "data.train_split"))


def test_milestones_without_their_schedule_are_refused():
    with pytest.raises(UserError, match=r"milestones .3. have no effect"):
        settings._check_sizes(Config(optimiser=OptimiserConfig(milestones=[3])))


def test_every_number_has_a_bound():
    """A negative rate would ascend, and a negative count or exponent does not fail by itself."""
    numbers = {key: rules for key, value, rules in entries(Config()) if type(value) in (int, float)}
    free = {key for key, rules in numbers.items() if rules.above is None and rules.least is None}
    assert free == {"runtime.zero.stage"}, "which is 1, 2 or 3"
