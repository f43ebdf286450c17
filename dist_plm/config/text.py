"""A configuration as YAML: the sections that take effect, with quotients beside the defaults computed from them."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import yaml

from dist_plm.config import Config
from dist_plm.config.fields import entries, rules_of

QUOTIENTS = {name: (value, rules.quotient) for name, value, rules in entries(Config()) if rules.quotient}


def unused_sections(tree: dict[str, Any]) -> set[str]:
    """Dotted names of the sections that have no effect under the chosen method, strategy and adapters.

    Args:
        tree: All settings, as nested dictionaries.
    """
    methods = {entry.name: rules_of(entry).methods for entry in fields(Config)}
    unused = {name for name, readers in methods.items() if readers and tree["train"]["method"] not in readers}
    if tree["runtime"]["strategy"] != "deepspeed":
        unused.add("runtime.zero")
    if not tree["model"]["lora"]["rank"]:
        unused.add("model.lora")
    return unused


def as_yaml(tree: dict[str, Any]) -> str:
    """All settings as YAML that `--config` reads, without the unused sections."""
    text = yaml.safe_dump(_used(plain(tree), unused_sections(tree)), sort_keys=False)
    return "".join(f"{line}\n" for line in _commented(text.splitlines()))


def plain(value: Any) -> Any:
    """A tree of settings with lists in place of tuples, as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _used(tree: dict[str, Any], unused: set[str], prefix: str = "") -> dict[str, Any]:
    return {
        name: _used(value, unused, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in tree.items()
        if f"{prefix}{name}" not in unused
    }


def _commented(lines: list[str]) -> Iterator[str]:
    section = ""
    for line in lines:
        name, _, value = line.strip().partition(": ")
        section = line[:-1] if line.endswith(":") and not line.startswith(" ") else section
        default, quotient = QUOTIENTS.get(f"{section}.{name}", (None, ""))
        yield f"{line}  # {quotient}" if value == repr(default) else line
