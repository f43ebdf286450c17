"""What is known of each key alone: its bounds, and whether a resumed run may use another value."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Rules:
    """Of one key; of each number where its value is a list.

    Attributes:
        above: The value is greater.
        least: The value is equal or greater.
        below: The value is smaller.
        most: The value is equal or smaller.
        filled: A list is not empty.
        free: A resumed run may use another value: it changes where, how fast or how verbosely a run works, never what
            it computes. Of a section: it holds for all of its keys.
    """

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None
    filled: bool = False
    free: bool = False

    def fault(self, value: Any) -> str:
        """What is wrong with a value, or with one number of a list; empty for nothing."""
        numbers = value if isinstance(value, list | tuple) else [value]
        if self.filled and not numbers:
            return "it must hold a number"
        return next((fault for number in numbers if (fault := self._fault(number))), "")

    def _fault(self, number: Any) -> str:
        low = self.least is not None and number < self.least
        high = (self.most is not None and number > self.most) or (self.below is not None and number >= self.below)
        if self.above is not None and number <= self.above:
            return f"it must be greater than {self.above}"
        if (low or high) and self.least == 0 and (self.most == 1 or self.below == 1):
            return f"it must lie in [0, 1{']' if self.most == 1 else ')'}"
        if low:
            return "it can't be negative" if self.least == 0 else f"it must be at least {self.least}"
        return f"it must be {self.most} at most" if high else ""


def key(default: Any, **rules: Any) -> Any:
    """A field of a section.

    Args:
        default: A value, a list, which each instance copies, or the class of a section.
        rules: As `Rules` names them.
    """
    metadata = {"rules": Rules(**rules)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def entries(section: Any, prefix: str = "", *, free: bool = False) -> Iterator[tuple[str, Any, Rules]]:
    """Dotted name, value and rules of every key of a configuration, or of a section."""
    for each in fields(section):
        value, rules = getattr(section, each.name), _rules(each, free)
        if is_dataclass(value):
            yield from entries(value, f"{prefix}{each.name}.", free=rules.free)
        else:
            yield f"{prefix}{each.name}", value, rules


def _rules(each: Field, free: bool) -> Rules:
    rules: Rules = each.metadata.get("rules", Rules())
    return Rules(rules.above, rules.least, rules.below, rules.most, rules.filled, rules.free or free)
