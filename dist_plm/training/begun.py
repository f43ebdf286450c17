"""A run directory compared with the settings of a command: what may change, what a run keeps, what differs."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dist_plm.cli import load_config
from dist_plm.config import Config, flat

# What may change between a run and its continuation: where, how fast and how talkative, never what it computes.
HARMLESS = (
    "run_dir", "data.shards", "data.workers", "data.prefetch", "data.cache_dir", "data.cache_gb", "data.retry_seconds",
    "batch.micro_batches", "train.max_steps",
    "train.log_steps", "train.evaluate_epochs", "train.wandb", "train.report", "evaluation", "checkpoint", "runtime",
    "index.memory_gb", "index.backend",
)  # fmt: skip


def has_checkpoint(run: Path) -> bool:
    """Whether a run directory holds anything that was learned: a checkpoint, complete or damaged."""
    return any(path.suffix != ".tmp" for path in (run / "checkpoints").glob("step_*"))


def differences(run: Path, config: Config) -> dict[str, list[Any]]:
    """The settings that alter the run and differ, as {key: [there, here]}; none where nothing was learned there."""
    if not (run / "config.yaml").exists() or not has_checkpoint(run):
        return {}
    before, now = (flat(plain(asdict(each))) for each in (load_config(run / "config.yaml"), config))
    return {
        key: [before.get(key), now.get(key)]
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
    }


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
        section, _, name = key.partition(".")
        taken[key] = value = getattr(getattr(before, section), name) if name else getattr(before, section)
        config = replace(config, **{section: replace(getattr(config, section), **{name: value}) if name else value})
    return config, taken


def plain(value: Any) -> Any:
    """A tree of settings with lists in place of tuples, as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value
