"""Table 2 of the paper on the bench's cached features of the test half, by the command of dist_plm.supervision.

    python -m benchmarks.reproduction.ranking --cache CACHE \
        --options "--config configs/cub200.yaml --model.head_start whitened"

The head starts as the options say, on the cached training images; nothing is trained and no weights are read.
"""

import argparse
import json
from pathlib import Path

import torch

from benchmarks.reproduction.experiment import Experiment
from dist_plm.supervision.__main__ import _methods
from dist_plm.supervision.display import show
from dist_plm.telemetry.progress import Display


def main() -> None:
    """Print the table on standard error and one JSON object on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--options", required=True, help="of `python -m dist_plm.train`")
    parser.add_argument("--batches", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment.of_options(options.cache, options.options)
    vectors = experiment._embedded(experiment.learner.student, experiment.features.test).numpy()
    labels = torch.from_numpy(experiment.features.test_labels.astype("int64"))
    classes, display = len(labels.unique()), Display(experiment.world)
    methods = _methods(vectors, labels, classes, options.batches, experiment.config, experiment.world, display)
    display.close()
    result = {"data": "cub200", "split": "test", "images": len(labels), "methods": methods, "proxies": None}
    show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
