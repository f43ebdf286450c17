"""Plans whose groups are images of one class: balanced over classes, complete, the same for the same seed."""

from collections import Counter

import numpy as np
import pytest

from dist_plm.config import BatchConfig
from dist_plm.data.plan import class_plan
from dist_plm.errors import UserError


def labels_of(*sizes: int, unlabelled: int = 0) -> np.ndarray:
    """Shuffled labels of classes with these sizes, whose numbers have gaps."""
    labels = np.repeat(3 * np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(np.concatenate([labels, np.full(unlabelled, -1)])).astype(np.int32)


@pytest.mark.parametrize(
    ("labels", "groups", "size"),
    [
        (labels_of(*[10] * 12), 6, 5),
        (labels_of(3, 50, 7, 1, 20, 9), 3, 4),
        (labels_of(5, 6, 40, unlabelled=30), 4, 2),  # fewer classes than groups
        (labels_of(2, 2, 2, 2, 2, 2), 3, 2),
    ],
)
def test_groups_are_of_one_class_and_batches_of_many(labels, groups, size):
    plan = class_plan(labels, BatchConfig(groups=groups, group_size=size), seed=1, epoch=0)
    assert plan.shape == (len(labels) // (groups * size), groups, size) and plan.dtype == np.int64
    of_group = labels[plan]
    assert (of_group >= 0).all() and (of_group == of_group[:, :, :1]).all()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    for step, batch in zip(plan, of_group[:, :, 0], strict=True):
        assert max(Counter(batch.tolist()).values()) == -(-groups // len(classes))
        for group, label in zip(step, batch, strict=True):
            assert len(set(group.tolist())) == min(size, counts[classes == label][0])


def test_no_image_of_a_class_comes_again_before_all_others_did():
    labels = labels_of(9, 30, 14)
    plan = class_plan(labels, BatchConfig(groups=2, group_size=3), seed=0, epoch=3)
    for label in np.unique(labels):
        read = Counter(plan[labels[plan] == label].tolist())
        seen = [read[image] for image in np.flatnonzero(labels == label).tolist()]
        assert max(seen) - min(seen) <= 1


def test_every_class_is_as_likely():
    labels = labels_of(10, 1000, 100, 500)
    plans = [class_plan(labels, BatchConfig(groups=2, group_size=2), seed=5, epoch=epoch) for epoch in range(10)]
    _, counts = np.unique(labels[np.stack(plans)[..., 0]], return_counts=True)
    # 8,040 groups: 2,010 +- 32 for each of four classes, two of which are in a batch.
    assert np.abs(counts - counts.mean()).max() < 130


def test_seed_and_epoch_decide():
    batch = BatchConfig(groups=4, group_size=2)
    plans = [class_plan(labels_of(*[6] * 9), batch, seed, epoch).tobytes() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(plans)) == 4
    assert plans[0] == class_plan(labels_of(*[6] * 9), batch, 0, 0).tobytes()


def test_classes_are_drawn_anew_for_each_epoch_and_seed():
    labels, batch = labels_of(*[6] * 9), BatchConfig(groups=4, group_size=2)
    drawn = [labels[class_plan(labels, batch, seed, epoch)[..., 0]] for seed in (0, 1) for epoch in (0, 1)]
    assert len({each.tobytes() for each in drawn}) == 4


def test_without_classes_there_is_no_plan():
    with pytest.raises(UserError, match="no image of the split has a label"):
        class_plan(np.full(100, -1), BatchConfig(), 0, 0)
