"""Ratios with noise and target, measured by alternating numerator and denominator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Measure = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """Target of a ratio.

    Args:
        what: Numerator / denominator, in words.
        unit: Of both.
        bound: The number.
        at_most: Whether the ratio should lie below it; above, otherwise.
        on_cpu: The number on a machine without a GPU, where that differs.
    """

    what: str
    unit: str
    bound: float
    at_most: bool = True
    on_cpu: float | None = None


TARGETS = {
    "P1": Target("full step / plain step of the same networks", "ms", 1.05),
    "P2": Target("the method's share of a step", "ms", 0.05, on_cpu=0.02),
    "P3": Target("W ranks / W x one rank", "images/s", 0.92, at_most=False),
    "P4": Target("loader / bare decode loop", "images/s", 0.90, at_most=False),
    "P4 wait": Target("waiting for data / step", "ms", 0.02),
    "P5": Target("embedding pass / forward or decoding alone", "images/s", 0.95, at_most=False),
    "P6": Target("matrix product / exact search", "ms", 0.5, at_most=False),
    "P7": Target("refresh / epoch", "s", 0.15),
    "P8": Target("stall of a checkpoint / step", "ms", 1.0),
    "P9": Target("signal to exit / (2 steps + save)", "s", 1.0),
    "P10": Target("read on resume / in flight", "images", 1.0),
    "P11": Target("approximate / exact neighbours", "neighbours", 0.95, at_most=False),
    "P12": Target("step / its convolutions alone", "GFLOP/s", 0.60, at_most=False),
    "P13": Target("whole epoch / its steps alone", "images/s", 0.87, at_most=False),
}


@dataclass(frozen=True)
class Ratio:
    """One ratio of TARGETS, measured several times.

    Args:
        name: Key of TARGETS.
        numerators: One a repeat; empty where it was not measured.
        denominators: Those measured beside them.
        note: What bounds it, or why it was not measured.
        applies: Whether the target is meant for this machine.
    """

    name: str
    numerators: Sequence[float] = ()
    denominators: Sequence[float] = ()
    note: str = ""
    applies: bool = True

    @property
    def target(self) -> Target:
        return TARGETS[self.name]

    @property
    def repeats(self) -> list[float]:
        """The ratio of each repeat; other load affects both sides."""
        return [over / under for over, under in zip(self.numerators, self.denominators, strict=True)]

    @property
    def value(self) -> float | None:
        return median(self.repeats) if self.numerators else None

    @property
    def noise(self) -> float:
        """Half the range of the repeats."""
        return (max(self.repeats) - min(self.repeats)) / 2 if self.numerators else 0.0

    def bound(self, device: str) -> float:
        """The target on a `device` of this type."""
        target = self.target
        return target.bound if device != "cpu" or target.on_cpu is None else target.on_cpu

    def met(self, device: str) -> bool | None:
        """Whether the target is reached; None where it does not apply or nothing was measured."""
        if self.value is None or not self.applies:
            return None
        return self.value <= self.bound(device) if self.target.at_most else self.value >= self.bound(device)


def in_turns(repeats: int, numerator: Measure, denominator: Measure) -> tuple[list[float], list[float]]:
    """Measure both sides `repeats` times, alternating which goes first, so that drift cancels."""
    over: list[float] = []
    under: list[float] = []
    for turn in range(repeats):
        for side, values in ((numerator, over), (denominator, under))[:: 1 if turn % 2 else -1]:
            values.append(side())
    return over, under


def rate_ratio(name: str, over: Sequence[float], under: Sequence[float], note: str = "") -> Ratio:
    """A ratio of rates, in 1/s of something, from the seconds that one of it took on both sides."""
    return Ratio(name, [1 / seconds for seconds in over], [1 / seconds for seconds in under], note)
