"""A small network with random weights, and its export: enough for tests of what is done with a trained network."""

from pathlib import Path

import torch

from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.encoders.exported import write_description, write_weights
from dist_plm.model.encoder import Encoder

CPU = torch.device("cpu")


def untrained(model: ModelConfig | None = None, *, resize: int = 16, run: str = "r") -> Embedder:
    """An embedder of images of 16 px; its weights are drawn from torch's default generator."""
    model = model or ModelConfig(backbone="small", dim=8)
    source = {"run": run, "model": "student", "step": 1, "epochs": 1}
    network = ready(Encoder(model), "fp32", CPU)
    return Embedder(network, model, ViewsConfig(size=16, resize=resize), "fp32", source)


def export_to(folder: Path, embedder: Embedder) -> Path:
    """Write the export into `folder`, which is created."""
    folder.mkdir(exist_ok=True)
    write_weights(folder, embedder)
    write_description(folder, embedder, {})
    return folder
