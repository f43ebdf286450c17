"""Metadata of each key: its bounds, whether a resumed run may change it, and which methods read it."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Rules:
    """Rules of one key; of each number if its value is a list.

    Attributes:
        above: The value is greater; 0 or None.
        least: The value is equal or greater; 0 or None.
        below: The value is smaller; 1 or None, with `least`.
        most: The value is equal or smaller.
        filled: A list is not empty.
        free: A resumed run may use another value, since it never affects results. Of a section: applies to all of its
            keys.
        methods: Of a section: the training methods that read it; empty: all of them.
        quotient: How a default that is a quotient was computed, shown as a comment in YAML.
    """

    above: Literal[0] | None = None
    least: Literal[0] | None = None
    below: Literal[1] | None = None
    most: int | None = None
    filled: bool = False
    free: bool = False
    methods: tuple[str, ...] = ()
    quotient: str = ""


def key(default: Any, **rules: Any) -> Any:
    """Declare a field of a section.

    Args:
        default: A value, a list, which each instance copies, or the class of a section.
        rules: Attributes of `Rules`.
    """
    metadata = {"rules": Rules(**rules)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def entries(section: Any, prefix: str = "", *, free: bool = False) -> Iterator[tuple[str, Any, Rules]]:
    """Dotted name, value and rules of every key of a configuration, or of a section."""
    for entry in fields(section):
        value, rules = getattr(section, entry.name), rules_of(entry)
        rules = replace(rules, free=rules.free or free)
        if is_dataclass(value):
            yield from entries(value, f"{prefix}{entry.name}.", free=rules.free)
        else:
            yield f"{prefix}{entry.name}", value, rules


def rules_of(entry: Field) -> Rules:
    """The metadata of a field, the defaults if it has none."""
    rules: Rules = entry.metadata.get("rules", Rules())
    return rules
