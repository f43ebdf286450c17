"""What the targets of a batch know that its distances do not, and which pairs and which directions they move. Markdown.

    python -m benchmarks.reproduction.information --cache CACHE --settings benchmarks/reproduction/gallery.yaml \
        --only "batch, same image" "gallery, projected, same image"

The named settings on the head's cached features, before any step, over the batches of one epoch; no weights are read.
Columns, over pairs of different images unless they say otherwise:

- same class: share of the pairs; control: of each point's nearest point of another image in the batch.
- views: share of the sum of |t - d|, the force of equation 6 on a pair, that pairs of one image bear.
- sd(t) / sd(d): spread of the targets against that of the distances.
- t, d, t - d: correlations of target, of distance and of what equation 6 asks to change with "other class"; the last
  is all that a step can use. beyond d: partial correlation of t with it, given d and d squared.
- noise: |mean over batches| of the gradient of the head's matrix over the root of its mean square in a batch.
- train, test, and without views: cosine of descent with the ascent of the NCA objective (Goldberger et al., 2004, at
  temperature .1) of the true classes of all training images, and of all test images. `truth` is equation 6 with s = 1
  for all pairs of one class.
"""

import argparse
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.reproduction.experiment import Experiment
from benchmarks.reproduction.features import Features
from benchmarks.reproduction.oracle import ChangedTargets
from dist_plm.cli import config_of, config_parser
from dist_plm.manifold.distance import distance
from dist_plm.methods import Points

TEMPERATURE = 0.1
HEAD = ["setting", "pairs, same class", "nearest, same class", "views", "sd(t) / sd(d)", "t", "d", "t - d", "beyond d",
        "noise", "train", "test", "train, without views", "test, without views", "NCA gain, test"]  # fmt: skip


class Pairs(NamedTuple):
    """Pairs of points of different images: distance, target, whether of another class, all [pairs]."""

    d: Tensor
    t: Tensor
    apart: Tensor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--only", nargs="+", required=True, help="names of settings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = yaml.safe_load(options.settings.read_text(encoding="utf-8"))
    features = Features.load(options.cache, "head")
    ascents: list[Tensor] = []  # at the start, which the settings share
    print("| " + " | ".join(HEAD) + " |\n" + "| --- |" + " ---: |" * (len(HEAD) - 1))
    for name in options.only:
        experiment = _experiment(f"{plan['base']} {plan['settings'][name] or ''}", features)
        ascents = ascents or [_ascent(experiment, split) for split in ("train", "test")]
        print(f"| {name} | " + " | ".join(_row(experiment, ascents)) + " |", flush=True)


def _experiment(line: str, features: Features) -> Experiment:
    parser = config_parser("train", "")
    for key, kind, default in (
        ("cut", str, ""), ("evaluate_every", int, 0), ("change", str, ""), ("class_groups", bool, False)
    ):  # fmt: skip
        parser.add_argument(f"--{key}", type=kind, default=default)
    parsed = parser.parse_args(shlex.split(line))
    change, class_groups = parsed.change, parsed.class_groups
    return Experiment(config_of(parser, parsed), features, "head", 0, change=change, class_groups=class_groups)


def _row(experiment: Experiment, ascents: list[Tensor]) -> list[str]:
    learner, views = experiment.learner, experiment.config.views.count
    labels = torch.from_numpy(experiment.features.train_labels.astype(np.int64))
    head = learner.student.head.weight
    found: list[Pairs] = []
    whole, others, nearest, forces = [], [], [], []
    for batch in experiment._epoch(0):
        ids = batch.ids.repeat_interleave(views)
        z = learner.student(batch.views)
        x = z.detach()
        targets = learner.method(Points(z, x, views, ids=ids, neighbours=batch.neighbours)).targets
        assert targets is not None
        t, d = targets.distance, distance(z, z)
        image, apart = ids[:, None] == ids, labels[ids][:, None] != labels[ids]
        own = torch.eye(len(ids), dtype=torch.bool)
        residual = (t - d).masked_fill(own, 0)
        only = isinstance(learner.method, ChangedTargets) and learner.method.change == "views"
        loss = residual.masked_fill(image & ~own, 0).square().sum() / len(z) ** 2
        (off,) = torch.autograd.grad(loss, head, retain_graph=True)
        loss = residual.masked_fill(~image, 0).square().sum() / len(z) ** 2
        (same,) = torch.autograd.grad(loss, head)
        others.append(off)
        whole.append(same if only else off + same)
        force = residual.detach().abs()
        forces.append(force[image].sum() / force.sum())
        closest = d.detach().masked_fill(image, torch.inf).argmin(1)
        nearest.append((labels[ids][closest] == labels[ids]).float().mean())
        found.append(Pairs(d.detach()[~image], t[~image], apart[~image]))
    pairs = Pairs(*(torch.cat(each).double() for each in zip(*found, strict=True)))
    gradient, rest = torch.stack(whole), torch.stack(others).mean(0)
    noise = gradient.mean(0).norm() / gradient.square().sum((1, 2)).mean().sqrt()
    numbers = [1 - float(pairs.apart.mean()), float(torch.stack(nearest).mean()), float(torch.stack(forces).mean())]
    numbers.append(float(pairs.t.std() / pairs.d.std()))
    numbers += [_correlation(value, pairs.apart) for value in (pairs.t, pairs.d, pairs.t - pairs.d)]
    numbers += [_correlation(_without(pairs.t, pairs.d), _without(pairs.apart, pairs.d)), float(noise)]
    mean = gradient.mean(0)
    numbers += [-_cosine(each, ascent) for each in (mean, rest) for ascent in ascents]
    # By how much a step of unit length raises the objective of the test classes.
    numbers.append(-float((mean / mean.norm() * ascents[1]).sum()))
    return [f"{number:.3f}" for number in numbers]


def _ascent(experiment: Experiment, split: str) -> Tensor:
    """Gradient of the mean log-probability that a point picks a neighbour of its class, in the head's matrix."""
    student = experiment.learner.student
    head, features = student.head, experiment.features
    maps, labels = getattr(features, split), torch.from_numpy(getattr(features, f"{split}_labels").astype(np.int64))
    with torch.no_grad():
        pooled = torch.cat([student.pool(torch.from_numpy(part.astype(np.float32)))
                            for part in np.array_split(maps, 20)])  # fmt: skip
    z = normalize(head(pooled))
    same = labels[:, None] == labels
    own = torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.mT / TEMPERATURE).masked_fill(own, -torch.inf)
    value = (logits.masked_fill(~same, -torch.inf).logsumexp(1) - logits.logsumexp(1)).mean()
    (gradient,) = torch.autograd.grad(value, head.weight)
    return gradient


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def _without(a: Tensor, d: Tensor) -> Tensor:
    """What is left of a after regression on 1, d and d squared."""
    known = torch.stack([torch.ones_like(d), d, d.square()], 1)
    return a - known @ torch.linalg.lstsq(known, a[:, None]).solution[:, 0]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


if __name__ == "__main__":
    main()
