"""A pretrained network without training as a section of the report: measured on the test split, with its pictures."""

from dataclasses import replace
from pathlib import Path

from dist_plm.config import Config
from dist_plm.distributed.world import World
from dist_plm.encoders.frozen import FrozenNetwork
from dist_plm.evaluation.protocol import evaluate
from dist_plm.model.digest import digest
from dist_plm.report.history import Event, History
from dist_plm.telemetry.progress import Display


def measure(frozen: FrozenNetwork, folder: Path, *, shards: str, world: World, display: Display) -> History:
    """Evaluate the frozen features, and the whitened ones where there are any.

    Args:
        folder: For the embeddings, which the pictures of the report are made of too; `sweeps/DIGEST` as in a run.
        shards: Data set folder or URL.

    Returns:
        A history without steps; its events are the evaluations. Without labels in the test split there are none.
    """
    config = replace(frozen.config, data=replace(frozen.config.data, shards=shards))
    events = [event for name in frozen.names if (event := _evaluated(frozen, name, folder, config, world, display))]
    return History(frozen.path, str(frozen.path), config, events, trained=False)


def _evaluated(
    frozen: FrozenNetwork, name: str, folder: Path, config: Config, world: World, display: Display
) -> Event | None:
    embedder = frozen.load(name, world.device)
    sweeps = folder / "sweeps" / digest(embedder.network)
    evaluated = evaluate(embedder.embed, sweeps, config=config, world=world, display=display)
    if evaluated is None:
        return None
    return {"event": "eval", "step": 0, "when": "without training", "model": name, **evaluated.result}
