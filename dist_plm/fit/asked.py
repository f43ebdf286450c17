"""Settings that were given, and those that are chosen around them."""

from dataclasses import dataclass, replace
from typing import Any

from dist_plm.config import Config


@dataclass(frozen=True)
class Asked:
    """Settings given by the user.

    Args:
        config: configs/folder.yaml with all overrides.
        given: Keys that were given.
        ranks: 0: to be chosen.
        minutes: What all parts may take together, where that is possible.
    """

    config: Config
    given: frozenset[str]
    ranks: int
    minutes: float

    def has(self, key: str) -> bool:
        """Whether a key, or its whole section, was given."""
        return key in self.given or key.partition(".")[0] in self.given


class Settings:
    """Settings to be chosen; those of the user are kept."""

    def __init__(self, asked: Asked) -> None:
        self.config, self._asked = asked.config, asked

    def put(self, key: str, value: Any) -> Any:
        """Set a key unless it was given; the value that holds."""
        section, name = key.split(".")
        part = getattr(self.config, section)
        if not self._asked.has(key):
            part = replace(part, **{name: value})
            self.config = replace(self.config, **{section: part})
        return getattr(part, name)

    def has(self, key: str) -> bool:
        """Whether a key was given."""
        return self._asked.has(key)

    def copy(self) -> "Settings":
        """The same, to be changed alone."""
        return Settings(replace(self._asked, config=self.config))

    @property
    def head_on_cached(self) -> bool:
        """Whether the head alone trains, on cached features."""
        return self.config.model.trainable == "head" and bool(self.config.views.cached)
