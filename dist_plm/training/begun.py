"""A run directory compared with the settings of a command: what may change, what a run keeps, what differs."""

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
    """Whether a run directory holds anything that was learned: a checkpoint, complete or damaged."""
    return any(path.suffix != ".tmp" for path in (run / "checkpoints").glob("step_*"))


def differences(run: Path, config: Config) -> dict[str, list[Any]]:
    """The settings that alter the run and differ, as {key: [there, here]}; none where nothing was learned there."""
    if not (run / "config.yaml").exists() or not has_checkpoint(run):
        return {}
    stored = load_config(run / "config.yaml")
    # `auto` is one filter for each backbone, and what older versions, which stored none, used.
    settled = [replace(each, views=with_filter(each.model, each.views)) for each in (stored, config)]
    before, now = ({key: plain(value) for key, value, rules in entries(each) if not rules.free} for each in settled)
    idle = tuple(f"{name}." for name in set.intersection(*(unused_sections(asdict(each)) for each in settled)))
    return {key: [before[key], now[key]] for key in sorted(now) if before[key] != now[key] and not key.startswith(idle)}


def as_begun(config: Config, given: Collection[str]) -> tuple[Config, dict[str, Any]]:
    """`config` with what neither a file nor an option set taken from the run that it resumes, not from the defaults.

    So a run that an older version began, with other defaults, is resumed by the same command.

    Args:
        given: Keys, or whole sections, that a file or an option set.

    Returns:
        The configuration, and the values that were taken, by key.
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
    """A copy of a section with the value that these names lead to replaced."""
    name, *rest = names
    return replace(section, **{name: _with(getattr(section, name), rest, value) if rest else value})
