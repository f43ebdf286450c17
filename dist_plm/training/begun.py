"""Compares the settings of a command with those of the run directory that it resumes."""

from collections.abc import Collection
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.config.fields import entries
from dist_plm.config.text import plain, unused_sections
from dist_plm.model.preprocessing import with_filter


def has_checkpoint(run: Path) -> bool:
    """Whether a run directory has a checkpoint, complete or damaged."""
    return any(path.suffix != ".tmp" for path in (run / "checkpoints").glob("step_*"))


def differences(run: Path, config: Config) -> dict[str, list[Any]]:
    """Settings that differ and change results, as {key: [stored, given]}; none if the run has no checkpoint."""
    if not (run / "config.yaml").exists() or not has_checkpoint(run):
        return {}
    stored = load_config(run / "config.yaml")
    # `auto` resolves to the backbone's filter, which is also what older versions used, who did not store it.
    both = [replace(c, views=with_filter(c.model, c.views)) for c in (stored, config)]
    before, now = ({key: plain(value) for key, value, rules in entries(c) if not rules.free} for c in both)
    idle = tuple(f"{name}." for name in set.intersection(*(unused_sections(asdict(c)) for c in both)))
    return {key: [before[key], now[key]] for key in sorted(now) if before[key] != now[key] and not key.startswith(idle)}


def as_begun(config: Config, given: Collection[str]) -> tuple[Config, dict[str, Any]]:
    """`config` with keys that neither a file nor an option set taken from the resumed run instead of the defaults.

    So the same command resumes a run that was started by a version with other defaults.

    Args:
        given: Keys, or whole sections, that a file or an option set.

    Returns:
        The configuration, and the values taken from the run, by key.
    """
    run = Path(config.run_dir)
    keys = [key for key in differences(run, config) if not {key, key.partition(".")[0]} & set(given)]
    if not keys:
        return config, {}
    before, taken = load_config(run / "config.yaml"), {}
    for key in keys:
        names = key.split(".")
        taken[key] = value = reduce(getattr, names, before)
        config = _with(config, names, value)
    return config, taken


def _with(section: Any, names: list[str], value: Any) -> Any:
    """A copy of a section with the value at this path of names replaced."""
    name, *rest = names
    return replace(section, **{name: _with(getattr(section, name), rest, value) if rest else value})
