"""Plan of an epoch's batches, computed in advance: int64 sample ids [steps, groups, group_size].

A group is a seed and its nearest neighbours (section 3.1.1 of the paper), or images of one class. A rank reads its
part of every step, so the plan is independent of the world size.
"""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from dist_plm.config import BatchConfig
from dist_plm.distributed.shares import Shares
from dist_plm.errors import UserError

Neighbours = Callable[[np.ndarray, int], np.ndarray]  # seeds int64 [S], depth -> ids [S, depth], nearest first, no seed

RANDOM_DEPTH = 2  # multiple of the group size requested at first: most of the 2 k are unused, else more are requested
DISJOINT_DEPTH = 8  # late groups find most neighbours used: with 2 k, 4 k, 8 k on clusters of 50, 73, 88, 94 % are near
LEAST_SEARCHED = 1_024  # seeds per search: fewer do not fill a block of the search
MOST_SEARCHED = 65_536  # bounds the memory, besides 8 bytes per image


def make_plan(n: int, *, batch: BatchConfig, seed: int, epoch: int, neighbours: Neighbours) -> np.ndarray:
    """The plan of one epoch over n images, int64 [steps, groups, group_size]: `plan_blocks` joined."""
    return np.concatenate(list(plan_blocks(n, batch=batch, seed=seed, epoch=epoch, neighbours=neighbours)))


def plan_blocks(n: int, *, batch: BatchConfig, seed: int, epoch: int, neighbours: Neighbours) -> Iterator[np.ndarray]:
    """The plan of one epoch over n images, a pure function of its arguments, in blocks of steps.

    With `batch.cover: random` seeds are a random sample of all images, and an image appears at most once in a batch: a
    duplicate is replaced by the next nearest, since its views would enter the loss twice, as identical points. With
    `disjoint` an image appears at most once in an epoch: seeds are drawn from the unused images, take the nearest
    unused ones, and groups are filled up at random if the nearest 8 k are all used.

    Args:
        n: Images of the split.
        batch: Groups, their size, and the cover.
        seed: Of the run.
        epoch: Counted from 0.
        neighbours: Called as (seeds int64 [S], depth) -> ids [S, depth]: the nearest images of every seed, nearest
            first, without the seed. Each seed is searched once, about n / k per pass, or again at a larger depth.

    Yields:
        int64 [some, groups, group_size]; the steps add up to `plan_steps`. The order of all images is held, 8 n
        bytes (twice that for a moment, where epochs share a pass), and with `disjoint` one more byte an image.

    Raises:
        UserError: A batch holds more images than there are.
    """
    if batch.group_size == 1:
        yield random_plan(n, batch, seed, epoch)
        return
    steps = plan_steps(n, batch)
    order = _order(n, batch, seed, epoch)
    if batch.cover == "disjoint":
        yield from _disjoint(order, steps, batch, neighbours)
    else:
        # A copy, so that the rest of the order can be freed.
        seeds, order = order[: steps * batch.groups].reshape(steps, batch.groups).copy(), order[:0]
        yield from _random(seeds, batch, neighbours)


def random_plan(n: int, batch: BatchConfig, seed: int, epoch: int) -> np.ndarray:
    """A plan without neighbours: batches of a permutation, int64 [steps, groups, group_size]."""
    steps = plan_steps(n, batch)
    return _order(n, batch, seed, epoch)[: steps * batch.images].reshape(steps, batch.groups, batch.group_size)


def class_plan(labels: np.ndarray, batch: BatchConfig, seed: int, epoch: int) -> np.ndarray:
    """A plan in which a group holds images of one class, and a batch as many classes as it has groups.

    Classes are drawn uniformly. The images of a class come in a random order, repeated when all were read; a class
    smaller than a group repeats images within it.

    Args:
        labels: int [n], the class of each image; images of class -1 are left out.

    Returns:
        int64 [steps, groups, group_size].

    Raises:
        UserError: No image has a class, or there are fewer images than in a batch.
    """
    steps = plan_steps(len(labels), batch)
    order = _order(len(labels), batch, seed, epoch)
    order = order[labels[order] >= 0]
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    if not len(order):
        raise UserError("no image of the split has a label: choose a labelled split by data.train_split")
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


def plan_steps(n: int, batch: BatchConfig) -> int:
    """Steps of an epoch: n // |B|, or `batch.epoch_steps`. UserError where a batch holds more images than there are."""
    if n < batch.images:
        raise UserError(
            f"a batch of {batch.groups} groups x {batch.group_size} images needs {batch.images} images, "
            f"the split has {n}: lower batch.groups or batch.group_size"
        )
    whole = n // batch.images
    return min(whole, batch.epoch_steps or whole)


def _order(n: int, batch: BatchConfig, seed: int, epoch: int) -> np.ndarray:
    """The order of a pass over the images, int64 [n]; of several epochs that share it, each begins at its own part."""
    steps = plan_steps(n, batch)
    number, part = divmod(epoch, n // batch.images // steps)
    order = _generator(seed, number, 1).permutation(n).astype(np.int64, copy=False)
    return np.roll(order, -part * steps * batch.images) if part else order


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    # The views of the same seed have 0 for the second word of the key.
    key, counter = np.array([seed, stream], dtype=np.uint64), np.array([0, 0, 0, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _random(seeds: np.ndarray, batch: BatchConfig, neighbours: Neighbours) -> Iterator[np.ndarray]:
    """Plans of the seeds [steps, groups], about MOST_SEARCHED seeds at a time."""
    size = max(1, MOST_SEARCHED // batch.groups)
    for low in range(0, len(seeds), size):
        yield _random_block(seeds[low : low + size], batch, neighbours)


def _random_block(seeds: np.ndarray, batch: BatchConfig, neighbours: Neighbours) -> np.ndarray:
    plan = np.empty((len(seeds), batch.groups, batch.group_size), dtype=np.int64)
    # Among |B| - 1 neighbours of a seed at most |B| - k are in other groups, so k - 1 are free: no need to look deeper.
    enough = batch.images - 1
    depth, open_steps = min(RANDOM_DEPTH * batch.group_size, enough), np.arange(len(seeds))
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


def _disjoint(order: np.ndarray, steps: int, batch: BatchConfig, neighbours: Neighbours) -> Iterator[np.ndarray]:
    count, depth = steps * batch.groups, min(DISJOINT_DEPTH * batch.group_size, len(order) - 1)
    taken = bytearray(len(order))  # a single read takes a fraction of that of an array
    fill = _backwards(order)  # from the end, where seeds have not been searched for yet
    groups: list[list[int]] = []
    made = done = 0
    while made < count:
        # Some of these seeds join another seed's group before their turn: searching a quarter at a time wastes few.
        most = max(LEAST_SEARCHED, (count - made) // 4)
        window = order[done : done + MOST_SEARCHED]
        free = np.flatnonzero(~np.frombuffer(taken, dtype=bool)[window])[:most]
        done += int(free[-1]) + 1 if len(free) == most else len(window)
        if not len(free):
            continue
        seeds = window[free]
        for seed, near in zip(seeds.tolist(), neighbours(seeds, depth).tolist(), strict=True):
            if taken[seed] or made == count:
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
            made += 1
        whole = len(groups) // batch.groups
        yield np.array(groups[: whole * batch.groups], dtype=np.int64).reshape(whole, batch.groups, batch.group_size)
        del groups[: whole * batch.groups]


def _backwards(order: np.ndarray) -> Iterator[int]:
    """The entries from last to first, converted to Python integers block by block."""
    for high in range(len(order), 0, -MOST_SEARCHED):
        yield from order[max(0, high - MOST_SEARCHED) : high][::-1].tolist()


def coverage(plan: np.ndarray, n: int) -> float:
    """Share of the n images that the plan reads at least once."""
    read = np.zeros(n, dtype=bool)
    size = max(1, MOST_SEARCHED * 16 // max(1, plan[0].size)) if len(plan) else 1  # a piece of it in memory at a time
    for low in range(0, len(plan), size):
        read[plan[low : low + size]] = True
    return float(read.mean())


def rank_rows(plan: np.ndarray, shares: Shares, rank: int) -> np.ndarray:
    """The ids [steps, b] that a rank reads of a plan [steps, groups, group_size]: consecutive images of every step.

    Joined in the order of ranks, the rows of a step are the plan's.

    Args:
        shares: Images of each rank.

    Raises:
        ValueError: They are not those of this plan's batches.
    """
    images = plan.reshape(len(plan), -1)
    if images.shape[1] != shares.total:
        raise ValueError(f"shares {shares.sizes} of batches of {images.shape[1]} images")
    return images[:, shares.rows(rank)]
