"""Loads networks for inference: student and teacher of a run, an export, or the initial network of a configuration."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_plm import __version__
from dist_plm.checkpoint import checkpoint
from dist_plm.checkpoint.retention import BEST, best_checkpoint, run_of
from dist_plm.cli import load_config
from dist_plm.config import Config, DataConfig
from dist_plm.data.place import of_run
from dist_plm.distributed.world import World
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.encoders.exported import DESCRIPTION, read_export
from dist_plm.errors import UserError
from dist_plm.files.names import is_utf8
from dist_plm.methods import PiecewiseLinearManifold
from dist_plm.model import Encoder
from dist_plm.model.adapters import merge_adapters
from dist_plm.model.proxies import Proxies
from dist_plm.model.split import split
from dist_plm.parallel.strategy import method_dtype


@dataclass(frozen=True)
class TrainedRun:
    """A run directory and its newest intact checkpoint."""

    path: Path
    config: Config
    latest: checkpoint.FoundCheckpoint

    names = ("student", "teacher")

    def load(self, name: str, device: torch.device) -> Embedder:
        """Load the network called `name`. A collective if there is a process group."""
        # The checkpoint has all weights; the file of pretrained weights may no longer exist.
        model = replace(self.config.model, weights="", wide_dim=0)
        precision = self.config.train.precision
        network = Encoder(model, blank=True)
        if model.lora.rank:
            split(network, model, self.config.views.size)  # adds the adapters of the checkpoint
        network = ready(network, precision, device)
        self._fill(name, network)
        if model.lora.rank:
            network = merge_adapters(network)
        summary: dict[str, Any] = self.latest.summary
        position = summary["position"]
        source = {
            "run": self.path.resolve().name,
            "model": name,
            "step": position["step"],
            "epochs": position["epochs"],
            "fingerprint": summary["data"],
            "versions": {"dist_plm": __version__, "torch": torch.__version__},
        }
        return Embedder(network, model, self.config.views, precision, source)

    def proxies(self) -> Proxies | None:
        """All P proxies of PLM; None if the run has none, or none yet. A collective like `load`."""
        config, summary = self.config, self.latest.summary
        if summary["phases"][summary["position"]["phase"]] != PiecewiseLinearManifold.name or not config.proxies.count:
            return None
        proxies = Proxies(config.proxies.count, config.model.dim, config.manifold.dim, seed=config.seed)
        self._fill("method.proxies", proxies.to(method_dtype(config)))
        return proxies

    def _fill(self, name: str, module: nn.Module) -> None:
        """Load the tensors of `module`, stored as NAME.KEY; those shared by student and teacher are stored once."""
        stored = checkpoint.names(self.latest.path) if name == "teacher" else None
        common = {key for key in module.state_dict() if stored and f"{name}.{key}" not in stored}
        held = {key: f"{'student' if key in common else name}.{key}" for key in module.state_dict()}
        with warnings.catch_warnings(action="ignore"):  # about loading without a process group, which is intended
            checkpoint.load(self.latest.path, {held[key]: value for key, value in module.state_dict().items()})


@dataclass(frozen=True)
class TrainedExport:
    """An export, which has one network."""

    path: Path
    embedder: Embedder

    @property
    def names(self) -> tuple[str, ...]:
        """Its name, as a tuple of one."""
        return (self.embedder.source["model"],)

    @property
    def config(self) -> Config:
        """The defaults with the network's own crop; an export has no data of its own."""
        return Config(data=DataConfig(shards=""), views=self.embedder.views)

    def load(self, name: str, device: torch.device) -> Embedder:
        """The network, which must be called `name`."""
        assert name in self.names
        return replace(self.embedder, network=self.embedder.network.to(device))

    def proxies(self) -> None:
        """None, since proxies are not exported."""


def locate(path: Path, world: World | None = None) -> TrainedRun | TrainedExport:
    """Open what is at `path`: a run (its newest checkpoint), RUN/checkpoints/NAME, or an export.

    A collective if a world of several ranks is given.

    Raises:
        UserError: Neither a run directory nor an export, a run without an intact checkpoint, or a damaged export.
    """
    if not is_utf8(str(path)):
        raise UserError(f"{path} is not UTF-8, which paths of weights must be: rename it")
    if (path / DESCRIPTION).exists():
        return TrainedExport(path, read_export(path, torch.device("cpu")))
    named = "" if run_of(path) == path else _checkpoint_name(path)
    path = run_of(path)
    if not (path / "config.yaml").exists():
        raise UserError(f"{path} is neither a run directory (config.yaml) nor an export ({DESCRIPTION})")
    config = of_run(load_config(path / "config.yaml"), path)
    latest = checkpoint.find(path / "checkpoints", world or World(), partial(_other, named))
    if latest is None:
        raise UserError(f"{path} has no checkpoint: train first, or choose another run directory")
    return TrainedRun(path, config, latest)


def _checkpoint_name(path: Path) -> str:
    """The name of a checkpoint; of `best`, that of the checkpoint it stands for."""
    best = best_checkpoint(path.parent) if path.name == BEST else None
    return (best or path.resolve()).name


def _other(named: str, summary: dict[str, Any]) -> str:
    """Why a checkpoint is not the one that was named; empty if it is, or none was."""
    return "" if named in ("", f"step_{summary['step']:08d}") else f"{named} was asked for"


def load_network(trained: TrainedRun | TrainedExport, name: str = "", device: torch.device | None = None) -> Embedder:
    """The network called `name`; by default the student of a run, or the network of an export.

    Raises:
        UserError: No such network there.
    """
    if name and name not in trained.names:
        raise UserError(f"{trained.path} has no {name}, only: {', '.join(trained.names)}")
    return trained.load(name or trained.names[0], device or torch.device("cpu"))


def untrained(config: Config, device: torch.device) -> Embedder:
    """The initial network of a run of `config`."""
    model, precision = replace(config.model, wide_dim=0), config.train.precision
    network = ready(Encoder(model, seed=config.seed), precision, device)
    source = {"run": "no run", "model": "start", "step": 0, "epochs": 0}
    return Embedder(network, model, config.views, precision, source)
