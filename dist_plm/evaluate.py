"""`python -m dist_plm.evaluate`: recall@K, MAP@R and NMI of a run's newest checkpoint, on one rank or on many."""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_plm.cli import OneLineParser, load_config, run_command
from dist_plm.config import Config
from dist_plm.errors import UserError
from dist_plm.runtime.atomic import replacing

if TYPE_CHECKING:
    from dist_plm.runtime.world import World


def main() -> int:
    """Evaluate student and teacher; one JSON object each, on standard output and in RUN_DIR/evaluation.jsonl."""
    options = _parse()
    config = load_config(options.checkpoint / "config.yaml")
    data = replace(
        config.data,
        shards=str(options.shards or config.data.shards),
        test_split=options.split or config.data.test_split,
        gallery_split=options.gallery if options.gallery is not None else config.data.gallery_split,
    )
    config = replace(config, data=data)

    from dist_plm.runtime.world import connect, disconnect

    world = connect(config.runtime)
    try:
        with tempfile.TemporaryDirectory(prefix="sweep_", dir=options.checkpoint) as folder:
            results = _evaluate(config, options.checkpoint, Path(world.gather_objects(folder)[0]), world)
            world.barrier("the end of the evaluation")
    finally:
        disconnect(world)
    if world.is_first:
        text = "".join(json.dumps(result) + "\n" for result in results)
        print(text, end="")
        with replacing(options.checkpoint / "evaluation.jsonl") as file:
            file.write(text.encode())
    return 0


def _parse() -> argparse.Namespace:
    parser = OneLineParser(prog="python -m dist_plm.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="run directory")
    parser.add_argument("--shards", type=Path, help="data set folder (the run's own by default)")
    parser.add_argument("--split", help="split of the queries (the run's test split by default)")
    parser.add_argument("--gallery", help="split that is searched, where it is not the queries' own")
    return parser.parse_args()


def _evaluate(config: Config, run: Path, folder: Path, world: "World") -> list[dict[str, Any]]:
    from dist_plm.evaluation.protocol import evaluate
    from dist_plm.learner import Learner, phases
    from dist_plm.runtime import checkpoint
    from dist_plm.runtime.progress import Display

    found = checkpoint.find(run / "checkpoints", world)
    if found is None:
        raise UserError(f"{run} holds no checkpoint: train first, or name another run directory")
    position = found.summary["position"]
    # The checkpoint holds all weights; the file that training started from may be gone.
    config = replace(config, model=replace(config.model, weights=""))
    learner = Learner(config, world, phases(config)[position["phase"]])
    networks = {"student": learner.student, "teacher": learner.teacher}
    encoders = {name: value for name, value in learner.state().items() if name.partition(".")[0] in networks}
    checkpoint.load(found.path, encoders)
    display = Display(world)
    results = []
    try:
        for name, network in networks.items():
            embed = learner.embed_with(network)
            result = evaluate(embed, folder / name, config=config, world=world, display=display)
            if result is None:
                raise UserError(
                    f"split {config.data.test_split!r} of {config.data.shards} has no labels to evaluate by"
                )
            at = {"step": position["step"], "epoch": position["epochs"]}
            results.append({"event": "eval", **at, "model": name, **result})
    finally:
        display.close()
    return results


if __name__ == "__main__":
    run_command(main)
