"""YAML without aliases and of bounded size: a kilobyte of aliases can expand to more values than fit into memory."""

from pathlib import Path
from typing import Any

import yaml

YAML_BYTES = 1 << 18
"""Largest YAML file, 256 KiB; PyYAML parses about 50 KB a second."""


class _NoAliases:
    """A mixin for PyYAML's loaders."""

    def compose_node(self, *arguments: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            mark = self.peek_event().start_mark  # type: ignore[attr-defined]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write the value out", mark)
        return super().compose_node(*arguments)  # type: ignore[misc]


class PlainLoader(_NoAliases, yaml.SafeLoader):
    """Numbers, booleans, strings, lists and mappings."""


class PlainTextLoader(_NoAliases, yaml.BaseLoader):
    """The same, with every scalar as a string."""


def read_yaml(path: Path, loader: type[PlainLoader | PlainTextLoader] = PlainLoader) -> Any:
    """Parse a YAML file.

    Raises:
        OSError: It can't be read.
        ValueError: It is larger than YAML_BYTES, not UTF-8, not YAML, has an alias, or is nested too deeply.
    """
    with path.open("rb") as file:
        text = file.read(YAML_BYTES + 1)
    if len(text) > YAML_BYTES:
        raise ValueError(f"larger than {YAML_BYTES:,} bytes")
    try:
        return yaml.load(text.decode("utf-8"), loader)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
