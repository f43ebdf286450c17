"""An epoch's batches, decided before it starts: int64 sample ids [steps, groups, group_size] for the global batch.

A group is a seed and its nearest neighbours (section 3.1.1 of the paper), or images of one class. A rank reads its
groups of every step, so the plan is the same for any number of ranks.
"""

import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from dist_plm.config import BatchConfig
from dist_plm.errors import UserError
from dist_plm.runtime.atomic import replacing

Neighbours = Callable[[np.ndarray, int], np.ndarray]  # seeds int64 [S], depth -> ids [S, depth], nearest first, no seed

RANDOM_DEPTH = 2  # neighbours asked for first, in groups: most of the 2 k are free, and the rest is asked for where not
DISJOINT_DEPTH = 8  # late groups find most neighbours used: of 2 k, 4 k, 8 k on clusters of 50, 73, 88, 94 % are near
LEAST_SEARCHED = 1_024  # seeds searched at once: fewer do not fill a block of the search


def make_plan(n: int, *, batch: BatchConfig, seed: int, epoch: int, neighbours: Neighbours) -> np.ndarray:
    """The plan of one epoch over n images, a pure function of its arguments.

    `batch.cover` says how. With `random` the seeds are a random sample of all images, and an image appears at most once
    in a batch: one that is already there is passed over for the next nearest, since its two views would otherwise enter
    the loss twice, as identical points. With `disjoint` an image appears at most once an epoch: seeds are drawn from
    what is left, take the nearest of what is left, and fill up at random where the nearest 8 k are all used.

    Args:
        n: Images of the split.
        batch: Groups, their size, and the cover.
        seed: Of the run.
        epoch: Counted from 0.
        neighbours: Called as (seeds int64 [S], depth) -> ids [S, depth]: the nearest images of every seed, nearest
            first, without the seed. Seeds are asked for once, about n / k in all, and again only to look deeper.

    Returns:
        int64 [n // |B|, groups, group_size].

    Raises:
        UserError: A batch holds more images than there are.
    """
    steps = _steps(n, batch)
    order = _permutation(n, seed, epoch)
    if batch.group_size == 1:
        return order[: steps * batch.images].reshape(steps, batch.groups, 1)
    if batch.cover == "disjoint":
        return _disjoint(order, steps, batch, neighbours)
    return _random(order, steps, batch, neighbours)


def random_plan(n: int, batch: BatchConfig, seed: int, epoch: int) -> np.ndarray:
    """A plan without neighbours: n // |B| batches of a permutation, int64 [steps, groups, group_size]."""
    steps = _steps(n, batch)
    return _permutation(n, seed, epoch)[: steps * batch.images].reshape(steps, batch.groups, batch.group_size)


def class_plan(labels: np.ndarray, batch: BatchConfig, seed: int, epoch: int) -> np.ndarray:
    """A plan in which a group holds images of one class, and a batch as many classes as it has groups.

    Every class is as likely as any other. Its images come in a random order, again from the start when all were read;
    a class smaller than a group fills it by repetition.

    Args:
        labels: int [n], the class of each image; images of class -1 are left out.

    Returns:
        int64 [n // |B|, groups, group_size].

    Raises:
        UserError: No image has a class, or there are fewer images than in a batch.
    """
    steps = _steps(len(labels), batch)
    order = _permutation(len(labels), seed, epoch)
    order = order[labels[order] >= 0]
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    if not len(order):
        raise UserError("no image has a class that batches could be made of: name a labelled split as data.train_split")
    random, rounds = _generator(seed, epoch, 2), -(-batch.groups // len(first))
    draws = [
        np.concatenate([random.choice(len(first), min(batch.groups, len(first)), replace=False) for _ in range(rounds)])
        for _ in range(steps)
    ]
    classes = np.stack(draws)[:, : batch.groups].ravel()
    by_class = np.argsort(classes, kind="stable")
    _, begin = np.unique(classes[by_class], return_index=True)
    turn = np.empty_like(by_class)  # how often the class came before
    turn[by_class] = np.arange(len(classes)) - np.repeat(begin, np.diff([*begin, len(classes)]))
    within = turn[:, None] * batch.group_size + np.arange(batch.group_size)
    plan = order[first[classes, None] + within % count[classes, None]]
    return plan.reshape(steps, batch.groups, batch.group_size)


def _steps(n: int, batch: BatchConfig) -> int:
    if n < batch.images:
        raise UserError(
            f"a batch of {batch.groups} groups x {batch.group_size} images needs {batch.images} images, "
            f"the split has {n}: lower batch.groups or batch.group_size"
        )
    return n // batch.images


def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return _generator(seed, epoch, 1).permutation(n).astype(np.int64, copy=False)


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    # The views of the same seed have 0 for the second word of the key.
    key, counter = np.array([seed, stream], dtype=np.uint64), np.array([0, 0, 0, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _random(order: np.ndarray, steps: int, batch: BatchConfig, neighbours: Neighbours) -> np.ndarray:
    seeds = order[: steps * batch.groups].reshape(steps, batch.groups)
    plan = np.empty((steps, batch.groups, batch.group_size), dtype=np.int64)
    # Among |B| - 1 neighbours of a seed at most |B| - k are in other groups, so k - 1 are free: no need to look deeper.
    enough = batch.images - 1
    depth, open_steps = min(RANDOM_DEPTH * batch.group_size, enough), np.arange(steps)
    while len(open_steps):
        table = neighbours(seeds[open_steps].ravel(), depth).reshape(len(open_steps), batch.groups, depth)
        unfilled = []
        for step, near in zip(open_steps, table, strict=True):
            groups = _assemble(seeds[step].tolist(), near.tolist(), batch.group_size)
            if groups is None:
                unfilled.append(step)
            else:
                plan[step] = groups
        if unfilled and depth == enough:
            raise ValueError(f"the neighbours of a seed are not {depth} different images other than itself")
        depth, open_steps = min(2 * depth, enough), np.array(unfilled, dtype=np.int64)
    return plan


def _assemble(seeds: list[int], near: list[list[int]], group_size: int) -> list[list[int]] | None:
    """The groups of one batch, or None where a seed has too few neighbours that the batch does not hold yet."""
    held = set(seeds)
    groups = []
    for seed, candidates in zip(seeds, near, strict=True):
        group = [seed]
        for candidate in candidates:
            if len(group) == group_size:
                break
            if candidate not in held:
                group.append(candidate)
        if len(group) < group_size:
            return None
        held.update(group)
        groups.append(group)
    return groups


def _disjoint(order: np.ndarray, steps: int, batch: BatchConfig, neighbours: Neighbours) -> np.ndarray:
    count, depth = steps * batch.groups, min(DISJOINT_DEPTH * batch.group_size, len(order) - 1)
    taken = bytearray(len(order))  # a single read takes a fraction of that of an array
    fill = iter(order[::-1].tolist())  # from the end, where seeds have not been searched for yet
    groups: list[list[int]] = []
    while len(groups) < count:
        order = order[~np.frombuffer(taken, dtype=bool)[order]]
        # Some of these seeds join another's group before their turn: a quarter at a time searches few in vain.
        seeds = order[: max(LEAST_SEARCHED, (count - len(groups)) // 4)]
        for seed, near in zip(seeds.tolist(), neighbours(seeds, depth).tolist(), strict=True):
            if taken[seed] or len(groups) == count:
                continue
            taken[seed] = 1
            group = [seed]
            for image in chain(near, fill):
                if not taken[image]:
                    taken[image] = 1
                    group.append(image)
                    if len(group) == batch.group_size:
                        break
            groups.append(group)
    return np.array(groups, dtype=np.int64).reshape(steps, batch.groups, batch.group_size)


def coverage(plan: np.ndarray, n: int) -> float:
    """Share of the n images that the plan reads at least once."""
    read = np.zeros(n, dtype=bool)
    read[plan] = True
    return float(read.mean())


def valid_world_sizes(groups: int) -> list[int]:
    """Numbers of ranks that split the groups of a step evenly."""
    return [world for world in range(1, groups + 1) if groups % world == 0]


def rank_rows(plan: np.ndarray, rank: int, world: int) -> np.ndarray:
    """A rank's ids of every step, [steps, groups / world * group_size]: its contiguous groups, one after the other.

    Joined in the order of ranks, the rows of a step are the plan's. UserError where `world` does not divide the groups.
    """
    steps, groups, group_size = plan.shape
    if world not in (valid := valid_world_sizes(groups)):
        raise UserError(f"{world} ranks cannot share batch.groups={groups} evenly: use one of {valid}")
    return plan.reshape(steps, world, groups // world * group_size)[:, rank]


def save_plan(path: str | Path, plan: np.ndarray) -> str:
    """Write a plan as .npy, whole or not at all; the same plan gives the same bytes. Returns their sha256 in hex."""
    with replacing(path) as file:
        np.save(file, np.ascontiguousarray(plan, dtype="<i8"), allow_pickle=False)
    return _sha256(path)


def load_plan(path: str | Path, sha256: str) -> np.ndarray:
    """Map a saved plan into memory, read-only; UserError where the file is missing or not the one with this hash."""
    try:
        found = _sha256(path)
    except OSError as error:
        raise UserError(
            f"cannot read the plan {path} ({error.strerror}): restore it, or start in another run_dir"
        ) from error
    if found != sha256:
        raise UserError(
            f"the plan {path} is not the one that was saved (sha256 {found[:12]}, not {sha256[:12]}): "
            "restore it, or start in another run_dir"
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
