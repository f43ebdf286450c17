"""Random reads, against tars written by the standard library."""

import io
import json
import os
import random
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dist_plm.data import shard_files
from dist_plm.data.opening import labels_as
from dist_plm.data.store import Store
from dist_plm.errors import UserError
from tests.open_shards import open_shards


def change_manifest(folder, change) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_reads_the_bytes_of_every_image_in_any_order(tiny_split, tmp_path):
    images = tiny_split([5, 1, 4])
    with Store(tmp_path, "train") as store:
        assert len(store) == 10
        assert [store.read(id) for id in range(10)] == images
        assert [store.read(id) for id in (9, 0, 5, 0)] == [images[id] for id in (9, 0, 5, 0)]
        assert store.read(np.int64(3)) == images[3]


def test_describes_the_split(tiny_split, tmp_path):
    tiny_split([5, 1, 4])
    tiny_split([2], split="test")
    with Store(str(tmp_path), "train") as store:
        assert store.labels.dtype == np.int32 and store.labels.tolist() == [i % 3 for i in range(10)]
        assert store.classes == ["class0", "class1", "class2"] and store.fingerprint == "0" * 64
        assert [(s.path.name, s.first_id, s.samples) for s in store.shards] == [
            ("train-000000.tar", 0, 5),
            ("train-000001.tar", 5, 1),
            ("train-000002.tar", 6, 4),
        ]
    with Store(tmp_path, "test") as store:
        assert len(store) == 2


@pytest.mark.parametrize("shard", [0, 2, 77])
def test_a_row_of_another_shard_is_refused(tiny_split, tmp_path, shard):
    tiny_split([5, 5])
    table = np.load(tmp_path / "train.offsets.npy")
    table["shard"][7] = shard
    np.save(tmp_path / "train.offsets.npy", table)
    with Store(tmp_path, "train") as store:
        for read in (store.read, store.about, store.read_image):
            with pytest.raises(UserError, match=f"sample 7 is said to be in shard {shard}"):
                read(7)


@pytest.mark.parametrize("label", [3, 99, -2])
def test_a_label_of_no_class_is_refused(tiny_split, tmp_path, label):
    tiny_split([5])
    tiny_split([5], split="test")
    table = np.load(tmp_path / "train.labels.npy")
    table[1] = label
    np.save(tmp_path / "train.labels.npy", table)
    queries, damaged = Store(tmp_path, "test"), Store(tmp_path, "train")
    with pytest.raises(UserError, match=f"train.labels.npy holds labels from .*{label}.* the split has 3 classes"):
        labels_as(queries, damaged)


def test_decodes_to_rgb(tiny_split, tmp_path):
    images = tiny_split([3], kind="png")
    with Store(tmp_path, "train") as store:
        for id, data in enumerate(images):
            image = store.read_image(id)
            assert image.mode == "RGB"
            assert (np.asarray(image) == np.asarray(Image.open(io.BytesIO(data)))).all()


@pytest.mark.parametrize("limit", [256, 1])
def test_many_threads_read_while_descriptors_come_and_go(tiny_split, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(shard_files, "OPEN_SHARDS", limit)
    images = tiny_split([3] * 6)
    with Store(tmp_path, "train") as store:
        ids = random.Random(0).choices(range(18), k=2000)
        with ThreadPoolExecutor(8) as pool:
            assert all(data == images[id] for id, data in zip(ids, pool.map(store.read, ids), strict=True))
        assert 1 <= len(open_shards(tmp_path)) <= min(limit, 6)
        store.close()
        assert not open_shards(tmp_path)


def test_a_closed_store_reads_no_more(tiny_split, tmp_path):
    tiny_split([2])
    store = Store(tmp_path, "train")
    store.read(0)
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.read(0)


@pytest.mark.parametrize("id", [-1, 2, 10**9])
def test_an_id_outside_the_split_is_an_index_error(tiny_split, tmp_path, id):
    tiny_split([2])
    with Store(tmp_path, "train") as store, pytest.raises(IndexError, match=str(id)):
        store.read(id)


def test_no_such_folder_or_split(tiny_split, tmp_path):
    with pytest.raises(UserError):
        Store(tmp_path / "nothing", "train")
    tiny_split([2])
    with pytest.raises(UserError, match=r"no split 'valid'.*train"):
        Store(tmp_path, "valid")


def test_a_truncated_or_missing_shard_is_named_with_both_sizes(tiny_split, tmp_path):
    tiny_split([2, 2])
    path = tmp_path / "train-000001.tar"
    size = path.stat().st_size
    os.truncate(path, size - 512)
    with pytest.raises(UserError, match=f"train-000001.tar has {size - 512} bytes, the manifest says {size}"):
        Store(tmp_path, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"train-000001.tar is missing"):
        Store(tmp_path, "train")


def test_a_shard_cut_short_while_open_is_an_error_at_the_sample(tiny_split, tmp_path):
    tiny_split([2])
    with Store(tmp_path, "train") as store:
        _, offset, size = np.load(tmp_path / "train.offsets.npy")[1].tolist()
        os.truncate(tmp_path / "train-000000.tar", offset + size - 1)
        store.read(0)
        with pytest.raises(UserError, match=rf"000000.tar: sample 1 at offset {offset}: {size - 1} bytes .*verify"):
            store.read(1)


def test_bytes_that_are_no_image_name_shard_id_and_offset(tiny_split, tmp_path):
    tiny_split([1, 2], replace={2: b"no image"})
    offset = np.load(tmp_path / "train.offsets.npy")["offset"][2]
    with Store(tmp_path, "train") as store:
        assert store.read(2) == b"no image"
        with pytest.raises(UserError, match=rf"train-000001.tar: sample 2 at offset {offset}: .*plm shards verify"):
            store.read_image(2)


@pytest.mark.parametrize(
    "name", ["../secret.tar", "/etc/passwd", "pipe:touch x", "file:x", "a/b.tar", "..", ".", "", "-", ".x", "x\n"]
)
def test_only_plain_names_inside_the_folder_are_shards(tiny_split, tmp_path, name):
    tiny_split([2])
    (tmp_path.parent / "secret.tar").write_bytes((tmp_path / "train-000000.tar").read_bytes())
    change_manifest(tmp_path, lambda m: m["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(UserError):
        Store(tmp_path, "train")


def test_a_split_name_that_leaves_the_folder_is_refused(tiny_split, tmp_path):
    tiny_split([2])
    change_manifest(tmp_path, lambda m: m["splits"].update({"../x": m["splits"]["train"]}))
    with pytest.raises(UserError, match=r"manifest.json"):
        Store(tmp_path, "../x")


def test_tables_of_another_data_set_are_refused(tiny_split, tmp_path):
    tiny_split([3, 3])
    good = np.load(tmp_path / "train.offsets.npy")

    def refused(match):
        with pytest.raises(UserError, match=match):
            Store(tmp_path, "train")

    np.save(tmp_path / "train.offsets.npy", good[:5])
    refused("train.offsets.npy")
    wrong = good.copy()
    wrong["shard"][3] = 0
    np.save(tmp_path / "train.offsets.npy", wrong)
    refused("train.offsets.npy does not describe train-000001.tar")
    wrong = good.copy()
    wrong["offset"][2] = 2**40
    np.save(tmp_path / "train.offsets.npy", wrong)
    refused("train.offsets.npy does not describe train-000000.tar")
    np.save(tmp_path / "train.offsets.npy", good)
    np.save(tmp_path / "train.labels.npy", np.zeros(6, np.int64))
    refused("train.labels.npy")
    (tmp_path / "train.labels.npy").unlink()
    refused("train.labels.npy cannot be read")


@pytest.mark.parametrize("table", ["offsets", "labels"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x02\x00((", b"\x93NUMPY"])
def test_a_torn_table_is_named(tiny_split, tmp_path, table, content):
    tiny_split([3])
    (tmp_path / f"train.{table}.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"train.{table}.npy cannot be read .*; rebuild the data set"):
        Store(tmp_path, "train")


def test_an_archive_is_no_table(tiny_split, tmp_path):
    tiny_split([3])
    np.savez(tmp_path / "archive.npz", np.zeros(3))
    (tmp_path / "archive.npz").rename(tmp_path / "train.labels.npy")
    with pytest.raises(UserError, match=r"train.labels.npy cannot be read"):
        Store(tmp_path, "train")


def test_no_row_of_a_table_asks_for_more_than_an_image_may_have(tiny_split, tmp_path):
    tiny_split([3])
    rows = np.load(tmp_path / "train.offsets.npy")
    rows["size"][1] = 2**32 - 1
    np.save(tmp_path / "train.offsets.npy", rows)
    with Store(tmp_path, "train") as store:
        for read in (store.read, store.about):
            with pytest.raises(UserError, match=r"000000.tar: sample 1 at .* 4,294,967,295 bytes, at most 268,435,456"):
                read(1)


@pytest.mark.parametrize("size", [2**28 + 1, 2**33, -5])
def test_no_header_asks_for_more_than_an_image_may_have(tiny_split, tmp_path, size):
    tiny_split([2])
    _, offset, length = np.load(tmp_path / "train.offsets.npy")[0].tolist()
    described = tarfile.TarInfo("00000000.json")
    described.size = size
    with open(tmp_path / "train-000000.tar", "r+b") as file:
        file.seek(offset + -(-length // 512) * 512)
        file.write(described.tobuf(tarfile.GNU_FORMAT))
    with Store(tmp_path, "train") as store, pytest.raises(UserError, match=r"its JSON record cannot be read"):
        store.about(0)
