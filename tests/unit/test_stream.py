"""The sequential sweep against the standard library's tarfile."""

import io
import json
import os
import tarfile
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from dist_plm.config import ViewsConfig
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shards
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError

CONFIG = ViewsConfig(size=16, resize=20)


def oracle(path) -> np.ndarray:
    with tarfile.open(path) as tar:
        images = [tar.extractfile(member).read() for member in tar if not member.name.endswith(".json")]
    return np.stack([eval_view(Image.open(io.BytesIO(data)).convert("RGB"), config=CONFIG) for data in images])


def sweep_shard(store: Store, index: int, *, batch_size: int, workers: int) -> list[torch.Tensor]:
    ((shard, batches),) = sweep(store, [index], batch_size, workers)
    assert shard == index
    return batches


def sweep(store: Store, shards: list[int], batch_size: int, workers: int = 2) -> list[tuple[int, list[torch.Tensor]]]:
    swept = sweep_shards(store, shards, config=CONFIG, batch_size=batch_size, workers=workers)
    return [(shard, list(batches)) for shard, batches in swept]


def sweeping() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sweep")]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (4, 2), (4, 5), (7, 3), (64, 2)])
def test_batches_hold_the_shard_in_order_and_no_more(tiny_split, tmp_path, batch_size, workers):
    tiny_split([9, 12, 1])
    with Store(tmp_path, "train") as store:
        for index, shard in enumerate(store.shards):
            batches = sweep_shard(store, index, batch_size=batch_size, workers=workers)
            expected = oracle(shard.path)
            assert (torch.cat(batches).numpy() == expected).all()
            full, rest = divmod(shard.samples, batch_size)
            assert [len(batch) for batch in batches] == [batch_size] * full + [rest] * (rest > 0)
            assert all(batch.dtype == torch.uint8 and batch.is_contiguous() for batch in batches)
    assert not sweeping()


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_shards_in_a_row_have_the_batches_of_each_alone(tiny_split, tmp_path, batch_size):
    tiny_split([9, 1, 12, 3])
    order = [2, 0, 1, 3]
    with Store(tmp_path, "train") as store:
        row = sweep(store, order, batch_size)
        assert [shard for shard, _ in row] == order
        assert [s for s, _ in sweep_shards(store, order, config=CONFIG, batch_size=1, workers=1)] == order, "none taken"
        for shard, batches in row:
            alone = sweep_shard(store, shard, batch_size=batch_size, workers=2)
            assert all(torch.equal(a, b) for a, b in zip(batches, alone, strict=True))


def test_the_next_shard_is_decoded_while_one_is_worked_on(tiny_split, tmp_path):
    tiny_split([3, 3, 3])
    with Store(tmp_path, "train") as store:
        decoded, decode = [], store.decoded
        store.decoded = lambda item: decoded.append(item) or decode(item)
        shards = sweep_shards(store, range(3), config=CONFIG, batch_size=4, workers=1)
        next(next(shards)[1])
        deadline = time.monotonic() + 30
        while len(decoded) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(decoded) == 9, "a batch of 3 was taken, so that 8 more may wait"
        shards.close()


def test_sweep_and_random_reads_agree(tiny_split, tmp_path):
    tiny_split([5, 6])
    with Store(tmp_path, "train") as store:
        swept = torch.cat([batch for _, batches in sweep(store, [0, 1], 4) for batch in batches])
        for id in range(11):
            assert (swept[id].numpy() == eval_view(store.read_image(id), config=CONFIG)).all()


def test_the_environment_of_a_rank_does_not_split_rewrite_or_cache(tiny_split, tmp_path, monkeypatch):
    tiny_split([6])
    (tmp_path / "cache").mkdir()
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "GOPEN_REWRITE": "/=/nowhere/",
        "WDS_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    with Store(tmp_path, "train") as store:
        assert sum(len(batch) for batch in sweep_shard(store, 0, batch_size=4, workers=1)) == 6
    assert not os.listdir(tmp_path / "cache")


def test_a_folder_named_like_a_command_is_a_folder(tiny_split, tmp_path, monkeypatch):
    tiny_split([3])
    folder = tmp_path / "pipe:touch owned;{a,b}"
    folder.mkdir()
    for path in list(tmp_path.iterdir()):
        if path.is_file():
            path.rename(folder / path.name)
    monkeypatch.chdir(tmp_path)
    with Store(folder.name, "train") as store:
        assert sum(len(batch) for batch in sweep_shard(store, 0, batch_size=4, workers=1)) == 3
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("claimed", [3, 5])
def test_another_number_of_samples_than_the_manifest_names_the_shard(tiny_split, tmp_path, claimed):
    tiny_split([4])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["splits"]["train"]["samples"] = manifest["splits"]["train"]["shards"][0]["samples"] = claimed
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    rows = np.load(tmp_path / "train.offsets.npy")
    np.save(tmp_path / "train.offsets.npy", np.concatenate([rows, rows])[[0, 1, 2, 3, 3][:claimed]])
    np.save(tmp_path / "train.labels.npy", np.zeros(claimed, "<i4"))
    with (
        Store(tmp_path, "train") as store,
        pytest.raises(UserError, match=f"train-000000.tar holds 4 samples, the manifest says {claimed}"),
    ):
        sweep_shard(store, 0, batch_size=2, workers=1)
    assert not sweeping()


def test_a_damaged_shard_is_named(tiny_split, tmp_path):
    tiny_split([4])
    offset = int(np.load(tmp_path / "train.offsets.npy")["offset"][2])
    with Store(tmp_path, "train") as store:
        os.truncate(store.shards[0].path, offset + 10)
        with pytest.raises(UserError, match=r"train-000000.tar is not an intact tar.*shards/verify.py"):
            sweep_shard(store, 0, batch_size=2, workers=1)


def test_a_sample_that_is_no_image_is_named(tiny_split, tmp_path):
    tiny_split([4], replace={2: b"no image"})
    with (
        Store(tmp_path, "train") as store,
        pytest.raises(UserError, match=r"train-000000.tar: sample '00000002'.*shards/verify.py"),
    ):
        sweep_shard(store, 0, batch_size=2, workers=1)
    assert not sweeping()


@pytest.mark.parametrize("batch_size", [2, 64])
@pytest.mark.parametrize("fault", ["truncated", "no image"])
def test_what_came_before_a_damaged_shard_is_handed_out(tiny_split, tmp_path, fault, batch_size):
    tiny_split([3, 4, 5, 2], replace={7: b"no image"} if fault == "no image" else {})
    whole = []
    with Store(tmp_path, "train") as store:
        if fault == "truncated":
            os.truncate(store.shards[2].path, 700)
        with pytest.raises(UserError, match=r"train-000002.tar"):
            for shard, batches in sweep_shards(store, range(4), config=CONFIG, batch_size=batch_size, workers=2):
                whole.append((shard, sum(len(batch) for batch in batches)))
    assert whole == [(0, 3), (1, 4)] and not sweeping()


def test_leaving_early_joins_the_threads_and_closes_the_shard(tiny_split, tmp_path):
    tiny_split([30])
    with Store(tmp_path, "train") as store:
        before = len(os.listdir("/proc/self/fd"))
        shards = sweep_shards(store, [0], config=CONFIG, batch_size=4, workers=3)
        next(next(shards)[1])
        assert sweeping()
        shards.close()
        assert not sweeping()
        assert len(os.listdir("/proc/self/fd")) == before
