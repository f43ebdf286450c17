"""`python -m dist_plm.evaluate`: recall@K, MAP@R and NMI of a run's newest checkpoint or of an export, on any ranks."""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.cli import OneLineParser, run_command
from dist_plm.config import Config, RuntimeConfig
from dist_plm.errors import UserError
from dist_plm.files.atomic import replacing

if TYPE_CHECKING:
    from dist_plm.distributed.world import World
    from dist_plm.encoders.networks import TrainedExport, TrainedRun


def main() -> int:
    """Evaluate each network; one JSON object each, on standard output and in evaluation.jsonl beside the network."""
    options = _parse()
    runtime = _runtime(options.checkpoint)

    from dist_plm.distributed.connection import connect, disconnect
    from dist_plm.encoders.networks import locate

    world = connect(runtime)
    try:
        trained = locate(options.checkpoint, world)
        config = _config(trained, options)
        with _scratch(options.checkpoint, world) as folder:
            results = _evaluate(trained, config, Path(world.from_first(lambda: folder)), world)
            world.barrier("the end of the evaluation")
    finally:
        disconnect(world)
    if world.is_first:
        text = "".join(json.dumps(result) + "\n" for result in results)
        print(text, end="")
        _keep(options.checkpoint / "evaluation.jsonl", text)
    return 0


def _scratch(path: Path, world: "World") -> "tempfile.TemporaryDirectory[str]":
    """A folder beside the network, where all nodes see it; elsewhere if that can't be written: somebody else's run."""
    try:
        return tempfile.TemporaryDirectory(prefix="sweep_", dir=path)
    except OSError as error:
        if world.size > world.node_size:
            raise UserError(
                f"{path} can't be written ({error.strerror}), and ranks on several nodes have no other folder that "
                "they share: start those of one node, or copy it"
            ) from error
        return tempfile.TemporaryDirectory(prefix="sweep_")


def _keep(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        print(f"warning: {path} can't be written ({error.strerror}): the lines above are all there is", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="run directory or export")
    parser.add_argument("--shards", help="data set folder or URL (a run's own by default)")
    parser.add_argument("--split", help="split of the queries (a run's test split by default, else `test`)")
    parser.add_argument("--gallery", help="split that is searched, where it is not the queries' own")
    return parser.parse_args()


def _runtime(path: Path) -> RuntimeConfig:
    """Of the run, which says how its numbers were computed; known before the ranks meet."""
    from dist_plm.cli import load_config

    return load_config(path / "config.yaml").runtime if (path / "config.yaml").exists() else RuntimeConfig()


def _config(trained: "TrainedRun | TrainedExport", options: argparse.Namespace) -> Config:
    config = trained.config
    if not (options.shards or config.data.shards):
        raise UserError(f"{options.checkpoint} is an export and has no data of its own: name a data set with --shards")
    data = replace(
        config.data,
        shards=options.shards or config.data.shards,
        test_split=options.split or config.data.test_split,
        gallery_split=options.gallery if options.gallery is not None else config.data.gallery_split,
    )
    return replace(config, data=data)


def _evaluate(
    trained: "TrainedRun | TrainedExport", config: Config, folder: Path, world: "World"
) -> list[dict[str, Any]]:
    from dist_plm.evaluation.protocol import evaluate
    from dist_plm.telemetry.progress import Display

    display = Display(world)
    results = []
    try:
        for name in trained.names:
            embedder = trained.load(name, world.device)
            result = evaluate(embedder.embed, folder / name, config=config, world=world, display=display)
            if result is None:
                raise UserError(
                    f"split {config.data.test_split!r} of {config.data.shards} has no labels to evaluate by, or no "
                    "class with an image to find: name another with --split"
                )
            at = {"step": embedder.source["step"], "epoch": embedder.source["epochs"]}
            results.append({"event": "eval", **at, "model": name, **result})
    finally:
        display.close()
    return results


if __name__ == "__main__":
    run_command(main)
