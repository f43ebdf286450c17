"""What equation 6 asks of the pairs of a batch before any step: present distance and target, by kind of pair.

    python -m benchmarks.reproduction.pairs --cache CACHE --options "--config configs/cub200.yaml --loss.delta 2"

Means over ten batches of the first epoch, from the start that the options give; a pair counts once, in the first kind
that it fits. Reads the linear head alone, so no weights.
"""

import argparse
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.reproduction.experiment import Experiment
from dist_plm.manifold.distance import distance
from dist_plm.methods import Points

BATCHES = 10


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--options", required=True, help="of `python -m dist_plm.train`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = Experiment.of_options(options.cache, options.options)
    print(
        "| pairs | share | distance d | target t | t < d | mean of t - d |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for name, values in kinds(experiment).items():
        share, d, t, attracted = values
        print(f"| {name} | {share:.2%} | {d:.3f} | {t:.3f} | {attracted:.1%} | {t - d:+.3f} |")


@torch.no_grad()
def kinds(experiment: Experiment) -> dict[str, tuple[float, float, float, float]]:
    """Share of all pairs, mean distance, mean target, and share whose target is below their distance, by kind."""
    learner, views = experiment.learner, experiment.config.views.count
    labels = torch.from_numpy(experiment.features.train_labels)
    found: dict[str, list[Tensor]] = {}
    for batch in islice(experiment._epoch(0), BATCHES):
        x = learner.teacher(batch.views)[:, : experiment.config.model.dim]
        ids = batch.ids.repeat_interleave(views)
        targets = learner.method(Points(x, x, views, ids=ids)).targets
        assert targets is not None
        member = torch.zeros(len(x), len(x), dtype=torch.bool).scatter_(1, targets.indices, targets.members)
        member |= member.mT.clone()
        same_image, same_label = ids[:, None] == ids, labels[ids][:, None] == labels[ids]
        numbers = torch.stack([distance(x, x), targets.distance])
        left = ~torch.eye(len(x), dtype=torch.bool)
        for name, kind in {
            "two views of an image": same_image,
            "X_i, same class": member & same_label,
            "X_i, other class": member,
            "same class": same_label,
            "other class": torch.ones_like(left),
        }.items():
            found.setdefault(name, []).append(numbers[:, left & kind])
            left &= ~kind
    total = sum(each.shape[1] for parts in found.values() for each in parts)
    result = {}
    for name, parts in found.items():
        d, t = torch.cat(parts, dim=1)
        result[name] = (len(d) / total, float(d.mean()), float(t.mean()), float((t < d).float().mean()))
    return result


if __name__ == "__main__":
    main()
