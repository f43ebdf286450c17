"""The folder of a run: config.yaml as resolved, metrics.jsonl, checkpoints/, plans/, sweeps/."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dist_plm.checkpoint.checkpoint import candidates
from dist_plm.checkpoint.lock import Lock
from dist_plm.config import Config
from dist_plm.config.text import as_yaml
from dist_plm.data.plan_file import save_plan
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing
from dist_plm.training.begun import differences, has_checkpoint


class RunDirectory:
    """Paths of a run. Opening one that holds another experiment is refused, unless nothing was learned in it.

    Args:
        force: Open it nevertheless, and go on with the settings that are new.

    Attributes:
        force: As given.
        forced: The settings that differ, as {key: [there, here]}.

    Raises:
        UserError: the folder can't be made, or its config.yaml differs in a setting that alters the run.
    """

    def __init__(self, config: Config, *, force: bool = False) -> None:
        self.path = Path(config.run_dir)
        self.checkpoints, self.plans, self.sweeps = (self.path / name for name in ("checkpoints", "plans", "sweeps"))
        self._config, self.force = config, force
        self._lock: Lock | None = None
        self.forced = differences(self.path, config)
        if self.forced and not force:
            changed = "; ".join(f"{key}: {there} there, {here} here" for key, (there, here) in self.forced.items())
            raise UserError(
                f"run_dir {self.path} holds another experiment ({changed}). Take those values to resume it, another "
                "--run_dir to start anew, or --force_resume to go on with what was learnt under the settings here"
            )

    def lock(self, world: World) -> None:
        """Wait until no other run uses the folder, if there is one. A collective.

        Raises:
            UserError: another run uses it and stays.
        """
        if world.from_first((self.path / "config.yaml").exists):
            self._lock = Lock(self.path, world)

    def create(self, world: World) -> None:
        """Make the folder, lock it, and write config.yaml; what hinders the first rank stops all. A collective.

        Raises:
            UserError: it can't be written, or another run began in it since this one found it new.
        """
        self._together(world, self._make_folders)
        if not self._lock:
            self._lock = Lock(self.path, world)
            if world.from_first((self.path / "config.yaml").exists):
                raise UserError(
                    f"run_dir {self.path}: another run began in it while this one was starting. Start again to go on "
                    "with that one, or choose another with --run_dir"
                )
        self._together(world, self._write_config)

    def _together(self, world: World, act: Callable[[], None]) -> None:
        def fault() -> str:
            try:
                act()
            except OSError as error:
                return error.strerror or str(error)
            return ""

        if reason := world.from_first(fault):
            raise UserError(f"run_dir {self.path} can't be written ({reason}): choose another with --run_dir")

    def _make_folders(self) -> None:
        if not has_checkpoint(self.path):  # a start that failed may have been of other settings
            for folder in (self.plans, self.sweeps):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.path, self.checkpoints, self.plans, self.sweeps):
            folder.mkdir(parents=True, exist_ok=True)

    def _write_config(self) -> None:
        assert self._lock
        self._lock.sign()
        with replacing(self.path / "config.yaml") as file:
            file.write(dump(self._config).encode())

    def resumes_at(self) -> str:
        """Where the next start goes on, for a message."""
        newest = next(iter(candidates(self.checkpoints)), None)
        return f"resumes from {newest.name}" if newest else "starts from the beginning, no checkpoint was written"

    def plan(self, epoch: int) -> Path:
        return self.plans / f"epoch_{epoch:05d}.npy"

    def labels(self, sha256: str) -> Path:
        """Where made-up classes with this hash lie, beside the plans that are made of them."""
        return self.plans / f"labels_{sha256[:16]}.npy"

    def save_labels(self, labels: np.ndarray) -> str:
        """Write made-up classes [n] under their own hash, and return it; on one rank."""
        path = self.plans / "labels.npy"
        sha256 = save_plan(path, labels)
        os.replace(path, self.labels(sha256))
        return sha256

    def sweep(self, weights: str) -> Path:
        """Where embeddings by the network called `weights` lie, one folder a split."""
        return self.sweeps / weights

    def nearest(self, weights: str) -> Path:
        """Where the table of each image's nearest images lies, beside the embeddings that it was searched in."""
        return self.sweep(weights) / "nearest.npy"

    def keep_sweep(self, weights: str, world: World) -> None:
        """Drop the sweeps of all other networks. A collective."""
        world.barrier("the end of a plan")
        if world.is_first:
            for folder in self.sweeps.iterdir():
                if folder.name != weights:
                    shutil.rmtree(folder)

    @property
    def ended(self) -> bool:
        """Whether the run came to its end the last time."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return bool(lines) and lines[-1].startswith(b'{"event": "end"')


def dump(config: Config) -> str:
    """The configuration as YAML that `--config` reads, without sections that have no effect."""
    return as_yaml(asdict(config))
