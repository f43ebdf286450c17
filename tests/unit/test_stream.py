"""The sequential sweep against the standard library's tarfile."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from dist_plm.config import ViewsConfig
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shards
from dist_plm.data.views import eval_view
from dist_plm.errors import UserError
from tests.open_shards import open_shards

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
        with pytest.raises(UserError, match=r"train-000000.tar is not an intact tar.*dist-plm shards verify"):
            sweep_shard(store, 0, batch_size=2, workers=1)


def swap(folder, data: bytes) -> None:
    """Another file in place of the only shard, and known to the manifest."""
    (folder / "train-000000.tar").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["bytes"] = len(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def sparse(name: str, size: int) -> bytes:
    """The header of a member that is all hole: no byte in the tar, `size` when it is read."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_shard_is_refused_not_unpacked(tiny_split, tmp_path, compress):
    tiny_split([4], size=(200, 150))  # a row of the table ends within the compressed file too
    data = compress((tmp_path / "train-000000.tar").read_bytes())
    swap(tmp_path, data + bytes(2 * len(data)))
    with (
        Store(tmp_path, "train") as store,
        pytest.raises(UserError, match=r"train-000000.tar is not an intact tar.*dist-plm shards verify"),
    ):
        sweep_shard(store, 0, batch_size=2, workers=1)


@pytest.mark.parametrize("kind", ["plain", "sparse"])
def test_a_member_larger_than_an_image_is_refused_before_it_is_read(tiny_split, tmp_path, kind):
    tiny_split([2])
    info = tarfile.TarInfo("huge.jpg")
    info.size = 2**28 + 1
    header = info.tobuf() if kind == "plain" else sparse("huge.jpg", info.size)
    swap(tmp_path, header + (tmp_path / "train-000000.tar").read_bytes())
    tracemalloc.start()
    with (
        Store(tmp_path, "train") as store,
        pytest.raises(UserError, match=r"train-000000.tar: 'huge.jpg' has 268,435,457 bytes, an image at most"),
    ):
        sweep_shard(store, 0, batch_size=2, workers=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6


def long_names(count: int) -> bytes:
    """Headers each of which says that the next one holds the name of the one after it."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 5
    return (info.tobuf(tarfile.GNU_FORMAT) + b"name\0".ljust(512, b"\0")) * count


@pytest.mark.parametrize("front", ["twice", "chained"])
def test_a_tar_that_no_builder_wrote_is_named(tiny_split, tmp_path, front):
    tiny_split([2])
    whole = (tmp_path / "train-000000.tar").read_bytes()
    _, offset, size = np.load(tmp_path / "train.offsets.npy")[0].tolist()
    first = whole[: offset + -(-size // 512) * 512]
    swap(tmp_path, (first if front == "twice" else long_names(3_000)) + whole)
    with Store(tmp_path, "train") as store, pytest.raises(UserError, match=r"train-000000.tar is not an intact tar"):
        sweep_shard(store, 0, batch_size=2, workers=1)


def test_what_is_neither_image_nor_sample_is_passed_over(tiny_split, tmp_path):
    images = tiny_split([3])
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar, tarfile.open(tmp_path / "train-000000.tar") as old:
        for name in ("__meta__", "__meta__/x.jpg", "nosuffix"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for member in old:
            tar.addfile(member, old.extractfile(member))
    swap(tmp_path, made.getvalue())
    with Store(tmp_path, "train") as store:
        assert [data for _, data in store.in_order(0)] == images


def test_a_sample_that_is_no_image_is_named(tiny_split, tmp_path):
    tiny_split([4], replace={2: b"no image"})
    with (
        Store(tmp_path, "train") as store,
        pytest.raises(UserError, match=r"train-000000.tar: sample '00000002'.*dist-plm shards verify"),
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
        shards = sweep_shards(store, [0], config=CONFIG, batch_size=4, workers=3)
        next(next(shards)[1])
        assert sweeping() and open_shards(tmp_path)
        shards.close()
        assert not sweeping() and not open_shards(tmp_path)
