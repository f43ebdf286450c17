"""`python -m dist_plm.supervision`: quality of a method's self-supervision, measured by labels (table 2 of the paper).

python -m dist_plm.supervision --checkpoint RUN
python -m dist_plm.supervision --checkpoint EXPORT --shards data/cub200
python -m dist_plm.supervision --config configs/cub200.yaml --model.weights FILE --shards data/cub200 --split test
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.cli import OneLineParser, config_of, config_parser, location, run_command
from dist_plm.config import Config
from dist_plm.distributed.environment import place
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.atomic import replacing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dist_plm.data.store import Store
    from dist_plm.distributed.world import World
    from dist_plm.encoders.embedder import Embedder
    from dist_plm.model.proxies import Proxies
    from dist_plm.telemetry.progress import Display

METHODS = ("distance", "k-means", "hierarchical", "random walk", "plm", "gallery", "projected")


def main() -> int:
    """Evaluate the estimates; a table on standard error, a JSON object on standard output."""
    options, config = _parse(sys.argv[1:])
    if place().size > 1:
        raise UserError("dist_plm.supervision runs on one rank: start it without torchrun")
    if not config.data.shards:
        raise UserError("no data set: name one with --shards")

    from dist_plm.data.opening import open_split
    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.supervision.display import show
    from dist_plm.telemetry.progress import Display
    from dist_plm.training.auto_precision import resolve_precision

    with open_split(config.data, config.data.test_split) as store:
        if options.clusters > len(store):
            raise UserError(f"--clusters {options.clusters}: split {store.split!r} has {len(store):,} images; lower it")
        if not (store.labels >= 0).any():
            raise UserError(f"split {store.split!r} of {store.place} has no labels: choose another --split")
        world = connect(config.runtime)
        display = Display(world)
        try:
            config, _ = resolve_precision(config, world)
            result = _judge(config, options, store, world, display)
            display.close()
            show(result)
        finally:
            display.close()
            disconnect(world)
    print(json.dumps(result))
    if options.out:
        try:
            with replacing(options.out) as file:
                file.write(f"{json.dumps(result)}\n".encode())
        except OSError as error:
            raise RunFailure(f"--out {options.out} can't be written ({error.strerror}): see the output") from error
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, Config]:
    first = OneLineParser(prog="python -m dist_plm.supervision", add_help=False, allow_abbrev=False)
    first.add_argument("--checkpoint", type=Path, help="run directory or export (default: an untrained network)")
    first.add_argument("--shards", type=location, help="data set folder, as --data.shards")
    first.add_argument("--split", help="split with labels, as --data.test_split")
    first.add_argument("--clusters", type=int, default=0, help="clusters of k-means and Ward (default: classes)")
    first.add_argument("--batches", type=int, default=20, help="sampled batches, evaluated separately")
    first.add_argument("--sweeps", type=Path, help="folder in which embeddings are kept for reuse")
    first.add_argument("--out", type=Path, help="file for the JSON object")
    options, rest = first.parse_known_args(arguments)
    parser = config_parser("supervision", __doc__.partition("\n")[0] + "\n\n" + first.format_help())
    given = {"--data.shards": options.shards, "--data.test_split": options.split}
    run = []
    if options.checkpoint:
        from dist_plm.checkpoint.retention import run_of

        file = run_of(options.checkpoint) / "config.yaml"
        # An export has no configuration and no data set.
        run = ["--config", str(file)] if file.exists() else ["--data.shards", ""]
    rest = [*run, *rest, *(word for key, value in given.items() if value for word in (key, value))]
    config = config_of(parser, parser.parse_args(rest))
    _check(options, config)
    return options, config


def _check(options: argparse.Namespace, config: Config) -> None:
    """Raise UserError where options or settings can't be used, before anything is computed."""
    manifold, images = config.manifold, config.batch.images
    if options.clusters < 0 or options.batches < 1:
        raise UserError("--clusters can't be negative and --batches must be at least 1")
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: there is no folder {options.out.parent}; make it, or name another file")
    if options.sweeps and options.sweeps.exists() and not options.sweeps.is_dir():
        raise UserError(f"--sweeps {options.sweeps} is not a folder: name a new one, or one of an earlier call")
    if config.model.head_start != "orthogonal" and not options.checkpoint:
        raise UserError(
            f"model.head_start {config.model.head_start} fits the head to training images, which only a run does: "
            "name one with --checkpoint, or set --model.head_start orthogonal"
        )
    if config.loss.relative:
        raise UserError(
            "loss.relative is defined for a training batch, not over all pairs: set --loss.relative false and "
            "--loss.delta to a distance"
        )
    if not manifold.dim <= manifold.k < images:
        raise UserError(
            f"manifold.k {manifold.k} must be at least manifold.dim {manifold.dim} and below {images}, the images of a "
            "batch (batch.groups x batch.group_size), in which the neighbours of plm are: set another --manifold.k, or "
            "enlarge the batch"
        )


def _judge(
    config: Config, options: argparse.Namespace, store: "Store", world: "World", display: "Display"
) -> dict[str, Any]:
    """All numbers: {"methods": {name: {"all": ..., "batches": ...}}, "proxies": ..., "data", "split", ...}."""
    import torch

    from dist_plm.data.format import Manifest

    embedder, proxies = _network(config, options.checkpoint, world)
    if config.manifold.dim > embedder.dim:
        raise UserError(f"manifold.dim {config.manifold.dim} is more than the {embedder.dim} of an embedding: lower it")
    vectors = _embed(embedder, config, options.sweeps, store, world, display)
    labels = torch.from_numpy(store.labels.astype("int64"))
    clusters = options.clusters or len(labels[labels >= 0].unique())
    return {
        "event": "supervision",
        "data": Manifest.load(store.folder).name,
        "split": store.split,
        "images": len(store),
        "clusters": clusters,
        "methods": _methods(vectors, labels, clusters, options.batches, config, world, display),
        "proxies": _usage(proxies, torch.from_numpy(vectors)) if proxies else None,
    }


def _methods(
    vectors: "np.ndarray",
    labels: "Tensor",
    clusters: int,
    most_batches: int,
    config: Config,
    world: "World",
    display: "Display",
) -> dict[str, dict[str, Any]]:
    """Each method's estimate, evaluated over all pairs and over those within sampled batches."""
    import torch

    from dist_plm.data.plan import make_plan
    from dist_plm.index.clustering import MOST_POINTS
    from dist_plm.index.flat import nearest
    from dist_plm.supervision.estimates import build_estimate
    from dist_plm.supervision.table2 import judge, judge_batches

    n, points, delta = len(vectors), torch.from_numpy(vectors), config.loss.delta
    search = partial(nearest, gallery=vectors, backend=config.index.backend, device=world.device)
    plan = make_plan(
        n, batch=config.batch, seed=config.seed, epoch=0,
        neighbours=lambda seeds, depth: search(vectors[seeds], k=depth, exclude=seeds)[0],
    )  # fmt: skip
    batches = torch.from_numpy(plan.reshape(len(plan), -1)[:most_batches])
    methods = {}
    for name in METHODS:
        if name in ("hierarchical", "random walk") and n > MOST_POINTS:
            display.say(f"{name} skipped: it stores all pairs, and {n:,} images exceed the limit of {MOST_POINTS:,}")
            continue
        display.say(f"{name}: estimating")
        estimate = build_estimate(name, points, clusters, config)
        depth = min(estimate.largest, n) - 1
        near, _ = nearest(vectors, vectors, max(1, depth), exclude=torch.arange(n))
        with display.phase(f"evaluate {name}", n + len(batches), "points") as bar:
            order = torch.from_numpy(near)
            whole = judge(estimate, points, labels, order, delta=delta, progress=bar.advance)
            sampled = judge_batches(estimate, points, labels, batches, delta=delta, progress=bar.advance)
        methods[name] = {"all": whole.result(), "batches": sampled.result()}
    return methods


def _network(config: Config, checkpoint: Path | None, world: "World") -> tuple["Embedder", "Proxies | None"]:
    """The network: the momentum encoder of a run, that of an export, or the initial one of a run."""
    from dist_plm.encoders.networks import TrainedRun, load_network, locate, untrained

    if checkpoint is None:
        return untrained(config, world.device), None
    trained = locate(checkpoint)
    if isinstance(trained, TrainedRun):
        trained = replace(trained, config=config)  # the command line may override it
    name = "teacher" if "teacher" in trained.names else ""
    return load_network(trained, name, world.device), trained.proxies()


def _embed(
    embedder: "Embedder", config: Config, kept: Path | None, store: "Store", world: "World", display: "Display"
) -> "np.ndarray":
    """Embeddings of the split, float32 [n, D]."""
    from dist_plm.index.embedding_pass import sweep

    config = replace(config, views=embedder.views)
    name = f"{embedder.identity()}_{store.fingerprint[:16]}"
    with _folder(kept) as folder:
        title = f"embed {store.split}"
        swept = sweep(embedder.embed, store, folder / name, config=config, world=world, display=display, title=title)
        return swept.whole()


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="supervision_") as folder:
        yield Path(folder)


def _usage(proxies: "Proxies", points: "Tensor") -> dict[str, float]:
    """Usage of the proxies by nearest-proxy assignment."""
    from dist_plm.evaluation.pair_quality import usage

    rho, _ = proxies.constrained(proxies.raw_rho.detach(), proxies.raw_psi.detach())
    return usage((points @ rho.to(points.dtype).T).argmax(1), proxies.count)


if __name__ == "__main__":
    run_command(main)
