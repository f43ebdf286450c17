"""The run directory: config.yaml as resolved, metrics.jsonl, checkpoints/, plans/, sweeps/ (embeddings)."""

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
    """Paths of a run. Opening a directory with other settings is refused if it has a checkpoint.

    Args:
        force: Open it nevertheless, and continue with the new settings.

    Attributes:
        force: As given.
        forced: The settings that differ, as {key: [stored, given]}.

    Raises:
        UserError: The folder can't be created, or its config.yaml differs in a setting that changes results.
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
                f"run_dir {self.path} holds another experiment ({changed}). Use those values to resume it, another "
                "--run_dir to start a new run, or --force_resume to continue it with the settings given here"
            )

    def lock(self, world: World) -> None:
        """Lock an existing directory, waiting for other runs in it. A collective.

        Raises:
            UserError: Another run still uses it.
        """
        if world.from_first((self.path / "config.yaml").exists):
            self._lock = Lock(self.path, world)

    def release(self) -> None:
        """Unlock the directory on this rank; without effect if it is not locked."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def create(self, world: World) -> None:
        """Create the directory, lock it, and write config.yaml; an error on rank 0 stops all ranks. A collective.

        Raises:
            UserError: It can't be written, or another run was started in it meanwhile.
        """
        self._together(world, self._make_folders)
        if not self._lock:
            self._lock = Lock(self.path, world)
            if world.from_first((self.path / "config.yaml").exists):
                raise UserError(
                    f"run_dir {self.path}: another run was started in it at the same time. Rerun the command to resume "
                    "that one, or choose another with --run_dir"
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
        if not has_checkpoint(self.path):  # leftovers of a failed start may have other settings
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
        """Where the next start resumes, for a message."""
        newest = next(iter(candidates(self.checkpoints)), None)
        return f"resumes from {newest.name}" if newest else "starts from the beginning, no checkpoint was written"

    def plan(self, epoch: int) -> Path:
        return self.plans / f"epoch_{epoch:05d}.npy"

    def labels(self, sha256: str) -> Path:
        """Path of the pseudo-labels with this hash."""
        return self.plans / f"labels_{sha256[:16]}.npy"

    def save_labels(self, labels: np.ndarray) -> str:
        """Save pseudo-labels [n] under their hash, and return it; on one rank."""
        path = self.plans / "labels.npy"
        sha256 = save_plan(path, labels)
        os.replace(path, self.labels(sha256))
        return sha256

    def sweep(self, weights: str) -> Path:
        """Folder of the embeddings by the network with this digest, one folder per split."""
        return self.sweeps / weights

    def nearest(self, weights: str) -> Path:
        """Path of the table of nearest images, beside the embeddings that it was computed from."""
        return self.sweep(weights) / "nearest.npy"

    def keep_sweep(self, weights: str, world: World) -> None:
        """Delete the embeddings by all other networks. A collective."""
        world.barrier("the end of a plan")
        if world.is_first:
            for folder in self.sweeps.iterdir():
                if folder.name != weights:
                    shutil.rmtree(folder)

    @property
    def ended(self) -> bool:
        """Whether the run was complete when it last stopped."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return bool(lines) and lines[-1].startswith(b'{"event": "end"')


def dump(config: Config) -> str:
    """The configuration as YAML that `--config` reads, without sections that have no effect."""
    return as_yaml(asdict(config))
