"""`python -m dist_plm.evaluate`: recall@K, MAP@R and NMI of a run's newest checkpoint or of an export."""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.cli import OneLineParser, add_frozen_options, add_threads, check_frozen_options, location, run_command
from dist_plm.config import Config, RuntimeConfig
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing

if TYPE_CHECKING:
    from dist_plm.distributed.world import World
    from dist_plm.encoders.frozen import FrozenNetwork
    from dist_plm.encoders.networks import TrainedExport, TrainedRun


def main() -> int:
    """Evaluate each network; one JSON object each, on standard output and in evaluation.jsonl beside the network."""
    options = _parse()

    from dist_plm.checkpoint.retention import run_of

    beside = run_of(options.checkpoint) if options.checkpoint else None
    runtime = _runtime(beside)
    runtime = replace(runtime, threads=options.threads or runtime.threads)

    from dist_plm.distributed.connection import connect, disconnect

    world = connect(runtime)
    try:
        with _scratch(beside, world) as name:
            folder = Path(world.from_first(lambda: name))
            trained = _located(options, folder, world)
            config = _config(trained, options)
            results = _few(trained, config, options, world) if options.labels else None
            results = results or _evaluate(trained, config, folder, world)
            world.barrier("the end of the evaluation")
    finally:
        disconnect(world)
    if world.is_first:
        text = "".join(json.dumps(result) + "\n" for result in results)
        print(text, end="")
        if beside:
            _keep(beside / "evaluation.jsonl", text)
    return 0


def _located(options: argparse.Namespace, folder: Path, world: "World") -> "TrainedRun | TrainedExport | FrozenNetwork":
    from dist_plm.encoders.frozen import frozen_network
    from dist_plm.encoders.networks import locate
    from dist_plm.model.own_backbone import allow
    from dist_plm.telemetry.progress import Display

    allow(options.backbone)
    if options.checkpoint:
        return locate(options.checkpoint, world)
    display = Display(world)
    try:
        return frozen_network(options, folder, world, display)
    finally:
        display.close()


def _scratch(path: Path | None, world: "World") -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder beside the network, visible to all nodes; elsewhere if that can't be written."""
    if path is None and world.size == world.node_size:
        return tempfile.TemporaryDirectory(prefix="sweep_")
    try:
        return tempfile.TemporaryDirectory(prefix="sweep_", dir=path or Path.cwd())
    except OSError as error:
        if world.size > world.node_size:
            raise UserError(
                f"{path} can't be written ({error.strerror}), and ranks on several nodes need a shared "
                "folder: use one node, or copy it"
            ) from error
        return tempfile.TemporaryDirectory(prefix="sweep_")


def _keep(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        print(f"warning: {path} can't be written ({error.strerror}): the results were only printed", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="run directory or export")
    parser.add_argument("--shards", type=location, help="data set folder or URL (a run's own by default)")
    parser.add_argument("--split", help="split of the queries (a run's test split by default, else `test`)")
    parser.add_argument("--gallery", help="gallery split, if not that of the queries (for a run's test split its own)")
    parser.add_argument(
        "--labels",
        type=Path,
        help="CSV of path,label for a few hundred images: recall among them, and against the start",
    )
    add_frozen_options(parser)
    add_threads(parser, "as in the run, else all cores")
    options = parser.parse_args()
    check_frozen_options(options, trained=bool(options.checkpoint))
    return options


def _runtime(path: Path | None) -> RuntimeConfig:
    """Runtime settings of the run, needed before the rendezvous."""
    from dist_plm.cli import load_config

    return load_config(path / "config.yaml").runtime if path and (path / "config.yaml").exists() else RuntimeConfig()


def _config(trained: "TrainedRun | TrainedExport | FrozenNetwork", options: argparse.Namespace) -> Config:
    config = trained.config
    if not (options.shards or config.data.shards):
        raise UserError(f"{trained.path} is not a run and has no data set: name one with --shards")
    split = options.split or config.data.test_split
    # The gallery of a run holds the classes of its own test split.
    gallery = config.data.gallery_split if split == config.data.test_split else ""
    data = replace(
        config.data,
        shards=options.shards or config.data.shards,
        test_split=split,
        gallery_split=gallery if options.gallery is None else options.gallery,
    )
    return replace(config, data=data)


def _few(
    trained: "TrainedRun | TrainedExport | FrozenNetwork", config: Config, options: argparse.Namespace, world: "World"
) -> list[dict[str, Any]]:
    """Recall on the images of --labels, computed by every rank; a summary goes to standard error."""
    from dist_plm.data.opening import open_split
    from dist_plm.encoders.labelled import evaluate_labelled, read_labels, start_of
    from dist_plm.training.held_out import held_out_store

    store = open_split(config.data, options.split) if options.split else held_out_store(config.data)
    labelled = read_labels(options.labels, store)
    start = start_of(trained, store)
    results = []
    for name in trained.names:
        embedder = trained.load(name, world.device)
        result = evaluate_labelled(embedder, labelled, start, config=config)
        at = {"step": embedder.source["step"], "epoch": embedder.source["epochs"], "model": name}
        results.append({"event": "labelled", **at, "split": store.split, **result})
        if world.is_first:
            low, high = (100 * result["interval"][end] for end in ("low", "high"))
            recall, queries = 100 * result["recall"]["1"], result["queries"]
            said = f"{name}: R@1 {recall:.1f} % (95 % {low:.1f} to {high:.1f}, {queries:,} queries)"
            print("; ".join([said, *([result["text"]] if "text" in result else [])]), file=sys.stderr)
    return results


def _evaluate(
    trained: "TrainedRun | TrainedExport | FrozenNetwork", config: Config, folder: Path, world: "World"
) -> list[dict[str, Any]]:
    from dist_plm.evaluation.protocol import evaluate
    from dist_plm.telemetry.progress import Display

    display = Display(world)
    results = []
    try:
        for name in trained.names:
            embedder = trained.load(name, world.device)
            evaluation = evaluate(embedder.embed, folder / name, config=config, world=world, display=display)
            if evaluation is None:
                raise UserError(
                    f"split {config.data.test_split!r} of {config.data.shards} has no labels, or no class with two "
                    "images: choose another with --split"
                )
            at = {"step": embedder.source["step"], "epoch": embedder.source["epochs"]}
            results.append({"event": "eval", **at, "model": name, **evaluation.result})
    finally:
        display.close()
    return results


if __name__ == "__main__":
    run_command(main)
