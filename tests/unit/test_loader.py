"""The loader: the plan's batches, byte for byte, whatever the ranks, workers and batches ahead."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch

from dist_plm.config import ViewsConfig
from dist_plm.data.decode import decode
from dist_plm.data.loader import Batch, Loader, to_device
from dist_plm.data.store import Store
from dist_plm.data.views import train_view
from dist_plm.errors import UserError

CONFIG = ViewsConfig(size=16, count=2)


def make_loader(store, rows, **changes) -> Loader:
    return Loader(store, rows, **{"views": CONFIG, "seed": 7, "epoch": 3, "workers": 2, "prefetch": 2} | changes)


def make_plan(samples: int, steps: int = 5, groups: int = 4, group_size: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, samples, (steps, groups, group_size))


def loading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.fixture
def store(tiny_split, tmp_path):
    tiny_split([7, 5, 11])
    with Store(tmp_path, "train") as store:
        yield store


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batches_are_the_plan_and_the_views_image_major(store, count):
    rows, config = make_plan(len(store)).reshape(5, 12), ViewsConfig(size=16, count=count)
    batches = list(make_loader(store, rows, views=config))
    assert [batch.step for batch in batches] == list(range(5))
    for batch, row in zip(batches, rows, strict=True):
        assert batch.ids.dtype == torch.int64 and batch.ids.tolist() == row.tolist()
        assert batch.views.dtype == torch.uint8 and batch.views.shape == (12 * count, 3, 16, 16)
        for i, id in enumerate(row.tolist()):
            for v in range(count):
                expected = train_view(decode(store.read(id)), config=config, seed=7, epoch=3, sample=id, view=v)
                assert (batch.views[i * count + v].numpy() == expected).all()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(("workers", "prefetch"), [(1, 0), (3, 1), (5, 9)])
def test_same_bytes_for_any_ranks_workers_and_prefetch(store, world, workers, prefetch):
    plan = make_plan(len(store))
    whole = list(make_loader(store, plan.reshape(5, 12)))
    shares = [
        list(make_loader(store, np.ascontiguousarray(part).reshape(5, -1), workers=workers, prefetch=prefetch))
        for part in np.split(plan, world, axis=1)
    ]
    for step, batch in enumerate(whole):
        assert torch.cat([share[step].ids for share in shares]).equal(batch.ids)
        assert torch.cat([share[step].views for share in shares]).equal(batch.views)


def test_another_epoch_or_seed_makes_other_views(store):
    rows = make_plan(len(store)).reshape(5, 12)
    first = next(iter(make_loader(store, rows)))
    for change in ({"epoch": 4}, {"seed": 8}):
        other = next(iter(make_loader(store, rows, **change)))
        assert other.ids.equal(first.ids) and not other.views.equal(first.views)


@pytest.mark.parametrize("first_step", [0, 3, 4, 5])
def test_resumes_at_any_step_without_reading_what_lies_before(store, first_step, monkeypatch):
    rows = np.arange(20).reshape(5, 4)
    whole = list(make_loader(store, rows))
    read, original = [], store.read
    monkeypatch.setattr(store, "read", lambda id: read.append(id) or original(id))
    loader = make_loader(store, rows, first_step=first_step)
    batches = list(loader)
    assert len(loader) == len(batches) == 5 - first_step
    assert sorted(read) == list(range(4 * first_step, 20))
    for batch, expected in zip(batches, whole[first_step:], strict=True):
        assert batch.step == expected.step and batch.views.equal(expected.views)


def test_an_image_is_decoded_once_a_batch(store, monkeypatch):
    rows = np.array([[3, 3, 5, 3], [5, 5, 5, 5]])
    decoded, original = Counter(), store.read_image
    monkeypatch.setattr(store, "read_image", lambda id: decoded.update([id]) or original(id))
    batches = list(make_loader(store, rows))
    assert decoded == {3: 1, 5: 2}
    for batch in batches:
        for i, id in enumerate(batch.ids.tolist()):
            first = batch.ids.tolist().index(id)
            assert batch.views[2 * i : 2 * i + 2].equal(batch.views[2 * first : 2 * first + 2])


def test_decodes_ahead_of_the_caller_but_no_further(store, monkeypatch):
    rows = np.arange(20).reshape(10, 2)
    started, original = [], store.read_image
    monkeypatch.setattr(store, "read_image", lambda id: started.append(id) or original(id))
    batches = iter(make_loader(store, rows, prefetch=3))
    next(batches)
    deadline = time.monotonic() + 30
    while len(started) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(started) == list(range(8))
    batches.close()


def test_unreadable_sample_is_named_at_its_step(tiny_split, tmp_path):
    tiny_split([6], replace={4: b"no image"})
    with Store(tmp_path, "train") as store:
        batches = iter(make_loader(store, np.arange(6).reshape(3, 2), prefetch=2))
        assert [next(batches).step, next(batches).step] == [0, 1]
        with pytest.raises(UserError, match=r"train-000000.tar: sample 4"):
            next(batches)
        assert not loading()


def test_a_bug_in_a_worker_reaches_the_caller_with_the_sample(store, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("dist_plm.data.loader.train_view", fail)
    with pytest.raises(RuntimeError, match=r"sample 2 of split 'train'.*oops") as raised:
        next(iter(make_loader(store, np.array([[2]]))))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert not loading()


def test_leaving_early_joins_the_threads_at_once(store, monkeypatch):
    original = store.read_image
    monkeypatch.setattr(store, "read_image", lambda id: time.sleep(0.2) or original(id))
    loader = make_loader(store, np.arange(200).reshape(100, 2) % len(store), workers=2, prefetch=99)

    def leave_by_break():
        for _ in loader:
            break

    def leave_by_exception():
        with pytest.raises(KeyError):
            for _ in loader:
                raise KeyError

    def leave_by_close():
        batches = iter(loader)
        next(batches)
        batches.close()

    for leave in (leave_by_break, leave_by_exception, leave_by_close):
        start = time.monotonic()
        leave()
        assert not loading()
        # 200 images on two threads take 20 s; the first batch and the two images in hand take 0.4.
        assert time.monotonic() - start < 5


def test_measures_the_time_waited_and_not_the_time_worked(store, monkeypatch):
    original = store.read_image
    monkeypatch.setattr(store, "read_image", lambda id: time.sleep(0.2) or original(id))
    rows = np.arange(4).reshape(4, 1)
    slow = make_loader(store, rows, workers=1, prefetch=1)
    start = time.perf_counter()
    assert len(list(slow)) == 4
    # 0.8 s of reading, less what passes on a busy machine before this thread asks.
    assert 0.4 <= slow.wait_seconds <= time.perf_counter() - start
    hidden, worked, start = make_loader(store, rows, workers=4, prefetch=3), 0.0, time.perf_counter()
    for _ in hidden:
        began = time.perf_counter()
        time.sleep(0.3)
        worked += time.perf_counter() - began
    assert 0 < hidden.wait_seconds <= time.perf_counter() - start - worked


def test_a_plan_of_another_shape_or_type_is_refused(store):
    for rows in (np.zeros((2, 2, 2), np.int64), np.zeros((2, 2), np.int32)):
        with pytest.raises(ValueError, match="plan_rows must be int64"):
            make_loader(store, rows)


def test_to_device_moves_ids_and_views():
    batch = Batch(4, torch.arange(2), torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
    moved = to_device(batch, torch.device("meta"))
    assert moved.step == 4 and moved.ids.is_meta and moved.views.is_meta and moved.views.shape == (4, 3, 2, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned_batches_copied_without_waiting_hold_the_right_bytes(store):
    rows = make_plan(len(store)).reshape(5, 12)
    loader = make_loader(store, rows, pin=True)
    moved = []
    for batch in loader:
        assert batch.ids.is_pinned() and batch.views.is_pinned()
        moved.append(to_device(batch, torch.device("cuda")))
    for batch, expected in zip(moved, make_loader(store, rows), strict=True):
        assert batch.views.cpu().equal(expected.views) and batch.ids.cpu().equal(expected.ids)
