"""The folder of a run: config.yaml as resolved, metrics.jsonl, checkpoints/, plans/, sweeps/."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dist_plm.cli import load_config
from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.runtime.atomic import replacing
from dist_plm.runtime.world import World

# What may change between a run and its continuation: where, how fast and how talkative, never what it computes.
HARMLESS = (
    "run_dir", "data.shards", "data.workers", "data.prefetch", "batch.micro_batches", "train.max_steps",
    "train.log_steps", "train.evaluate_epochs", "evaluation", "checkpoint", "runtime",
)  # fmt: skip


class RunDirectory:
    """Paths of a run. Opening one that holds another experiment is refused.

    Raises:
        UserError: the folder can't be made, or its config.yaml differs in a setting that alters the run.
    """

    def __init__(self, config: Config) -> None:
        self.path = Path(config.run_dir)
        self.checkpoints, self.plans, self.sweeps = (self.path / name for name in ("checkpoints", "plans", "sweeps"))
        self._config = config
        if (self.path / "config.yaml").exists():
            _refuse_changes(self.path, config)

    def create(self, world: World) -> None:
        """Make the folder and write config.yaml; what hinders the first rank stops all. A collective."""
        fault = world.gather_objects(self._create() if world.is_first else "")[0]
        if fault:
            raise UserError(f"run_dir {self.path} can't be written ({fault}): choose another with --run_dir")

    def _create(self) -> str:
        try:
            for folder in (self.path, self.checkpoints, self.plans, self.sweeps):
                folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / "config.yaml") as file:
                file.write(dump(self._config).encode())
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def plan(self, epoch: int) -> Path:
        return self.plans / f"epoch_{epoch:05d}.npy"

    def sweep(self, weights: str) -> Path:
        """Where embeddings by the network called `weights` lie, one folder a split."""
        return self.sweeps / weights

    def keep_sweep(self, weights: str, world: World) -> None:
        """Drop the sweeps of all other networks. A collective."""
        world.barrier("the end of a sweep")
        if world.is_first:
            for folder in self.sweeps.iterdir():
                if folder.name != weights:
                    shutil.rmtree(folder)

    @property
    def ended(self) -> bool:
        """Whether the run came to its end the last time."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return bool(lines) and json.loads(lines[-1]).get("event") == "end"


def dump(config: Config) -> str:
    """The configuration as YAML that `--config` reads."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _refuse_changes(path: Path, config: Config) -> None:
    before, now = (_flat(_plain(asdict(each))) for each in (load_config(path / "config.yaml"), config))
    changed = [
        f"{key}: {before.get(key)} there, {now.get(key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
    ]
    if changed:
        raise UserError(
            f"run_dir {path} holds another experiment ({'; '.join(changed)}). "
            "Take those values to resume it, or another --run_dir to start anew"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
