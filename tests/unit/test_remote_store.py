"""Reads over fsspec against local ones: of a folder, of a server that fails, and of one that lies."""

import http.server
import json
import random
import shutil
import sys
import threading

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from dist_plm.config import BatchConfig, Config, DataConfig, ViewsConfig
from dist_plm.data.loader import Loader
from dist_plm.data.opening import open_split
from dist_plm.data.remote import mirror, spans
from dist_plm.data.remote.spans import Remote, Span, StoreFailure
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shards
from dist_plm.datasets.build import main as build
from dist_plm.errors import UserError
from dist_plm.training.resources import read_rows
from tests.servers import damage

VIEWS = ViewsConfig(size=16, resize=20)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "demo"
    arguments = ["demo", "--images", "120", "--size", "32", "--classes", "4", "--shard-size", "0.012"]
    assert build([*arguments, "--workers", "1", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def data(built, tmp_path, monkeypatch):
    """The data set at a URL, with a cache of its own."""
    mirror._manifest.cache_clear()
    monkeypatch.setattr(spans, "FIRST_PAUSE", 0.001)
    honest = spans._file_system

    def of_files(url, seconds):
        return (LocalFileSystem(), url[len("file://") :]) if url.startswith("file://") else honest(url, seconds)

    monkeypatch.setattr(spans, "_file_system", of_files)
    return DataConfig(shards=f"file://{built}", cache_dir=str(tmp_path / "cache"), retry_seconds=5.0)


def test_reads_sweeps_and_descriptions_are_the_local_ones(built, data):
    with Store(built, "train") as local, open_split(data, "train") as store:
        assert len(store.shards) == 2 and store.fingerprint == local.fingerprint
        assert [store.read(id) for id in range(60)] == [local.read(id) for id in range(60)]
        assert store.fetch([7, 3, 59, 3, 8]) == [local.read(id) for id in (7, 3, 59, 3, 8)]
        assert store.about(11) == local.about(11)
        here, there = (
            [list(batches) for _, batches in sweep_shards(each, [0, 1], config=VIEWS, batch_size=7, workers=2)]
            for each in (local, store)
        )
        for a, b in zip(here, there, strict=True):
            assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_no_row_of_a_table_asks_for_more_than_an_image_may_have(data):
    with open_split(data, "train") as store:
        store.offsets = store.offsets.copy()
        store.offsets["size"][3] = 2**32 - 1
        for read in (store.read, store.about, lambda id: store.fetch([id])):
            with pytest.raises(UserError, match=r"sample 3 at offset \d+: 4,294,967,295 bytes, at most 268,435,456"):
                read(3)


def test_a_sweep_asks_for_stretches_not_for_images(data):
    with open_split(data, "train") as store:
        for shard in range(len(store.shards)):
            list(store.in_order(shard))
        assert store.remote.requests == len(store.shards)


def test_the_estimate_is_what_is_asked_for(data):
    batch = BatchConfig(groups=5, group_size=4)
    config = Config(data=data, batch=batch)
    with open_split(data, "train") as store:
        rows = dict(read_rows(config, store, swept=True))
        assert rows["an epoch's requests"].startswith("2 in order, 60 at random at most")
        assert rows["cache of a node"].endswith("100% of the images")
        list(store.in_order(0)), list(store.in_order(1))
        assert store.remote.requests == 2
        size = store.offsets["size"].sum() / 1e6
        assert rows["an epoch reads"].startswith(f"{size:.1f} MB in order (embedding), {size:.1f} MB at random")


@pytest.mark.parametrize("cache_gb", [1.0, 1e-5])
def test_batches_are_the_local_ones_and_the_second_epoch_comes_from_the_disk(built, data, cache_gb):
    data.cache_gb = cache_gb
    before = threading.enumerate()  # another test may have left one
    rows = np.random.default_rng(0).integers(0, 60, (6, 10))
    settings = {"views": VIEWS, "seed": 1, "workers": 2, "prefetch": 2}
    with Store(built, "train") as local, open_split(data, "train") as store:
        for epoch in range(2):
            asked = store.remote.requests
            for here, there in zip(
                Loader(local, rows, epoch=epoch, **settings), Loader(store, rows, epoch=epoch, **settings), strict=True
            ):
                assert (here.views == there.views).all() and (here.ids == there.ids).all()
            if epoch and cache_gb == 1.0:
                assert store.remote.requests == asked
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch" and thread not in before]


def test_a_torn_file_of_the_cache_is_fetched_again(built, data, tmp_path):
    rows = np.arange(10).reshape(1, 10)
    with Store(built, "train") as local, open_split(data, "train") as store:
        list(Loader(store, rows, views=VIEWS, seed=0, epoch=0, workers=1, prefetch=0))
        kept = sorted((tmp_path / "cache" / "images").rglob("3"))
        assert len(kept) == 1
        kept[0].write_bytes(local.read(3)[:50])
        assert store.read(3) == local.read(3) and not kept[0].exists()


def test_wrong_bytes_are_never_handed_out(built, data, tmp_path):
    folder = shutil.copytree(built, tmp_path / "damaged")
    damage(folder, 5)
    data.shards = f"file://{folder}"
    with Store(built, "train") as local, open_split(data, "train") as store:
        assert store.read(4) == local.read(4)
        with pytest.raises(StoreFailure, match=r"train-000000.tar: the bytes are not those of the data set.*3 times"):
            store.read(5)
        with pytest.raises(StoreFailure, match="checksum"):
            list(store.in_order(0))
        with pytest.raises(StoreFailure, match="checksum"):
            list(Loader(store, np.arange(20).reshape(2, 10), views=VIEWS, seed=0, epoch=0, workers=2, prefetch=1))


def test_failures_and_wrong_bytes_that_pass_are_overcome(built, data, monkeypatch):
    """Of all requests a fifth fails and a fifth comes damaged."""
    with Store(built, "train") as local, open_split(data, "train") as store:
        draw, honest = random.Random(0), store.remote._files.cat_ranges

        def flaky(*arguments, **options):
            answers = honest(*arguments, **options)
            for at, answer in enumerate(answers):
                luck = draw.random()
                if luck < 0.2:
                    answers[at] = ConnectionResetError("503")
                elif luck < 0.4:
                    answers[at] = answer[:-1] + bytes([answer[-1] ^ 1])
            return answers

        monkeypatch.setattr(spans, "WRONG_TRIES", 12)
        monkeypatch.setattr(store.remote._files, "cat_ranges", flaky)
        assert [store.read(id) for id in range(60)] == [local.read(id) for id in range(60)]
        assert [image for _, image in store.in_order(1)] == [local.read(id) for id in store_ids(local, 1)]


def store_ids(store: Store, shard: int) -> range:
    return range(store.shards[shard].first_id, store.shards[shard].first_id + store.shards[shard].samples)


def test_a_store_that_is_gone_ends_the_read_in_time(data, monkeypatch):
    data.retry_seconds = 0.05
    with open_split(data, "train") as store:
        monkeypatch.setattr(
            store.remote._files, "cat_ranges", lambda paths, *_, **__: len(paths) * [ConnectionError("refused")]
        )
        with pytest.raises(StoreFailure, match=r"could not be read for .* s \(ConnectionError refused\)"):
            store.read(0)


def test_what_is_not_there_ends_it_at_once(built, data, tmp_path):
    folder = shutil.copytree(built, tmp_path / "less")
    data.shards = f"file://{folder}"
    with open_split(data, "train") as store:
        (folder / "train-000001.tar").unlink()
        with pytest.raises(StoreFailure, match=r"train-000001.tar does not exist"):
            list(store.in_order(1))


@pytest.mark.parametrize("name", ["../x.tar", "/etc/passwd", "a/b.tar", "x?y", ".x", "http://other/x.tar"])
def test_only_plain_names_are_asked_for_or_written(built, data, tmp_path, name):
    folder = shutil.copytree(built, tmp_path / "stranger")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    data.shards = f"file://{folder}"
    with pytest.raises(UserError):
        open_split(data, "train")


@pytest.mark.parametrize("name", ["../x.npy", "/etc/x.npy"])
def test_a_table_stays_in_its_folder(built, data, tmp_path, name):
    folder = shutil.copytree(built, tmp_path / "stranger")
    manifest = json.loads((folder / "manifest.json").read_text())
    tables = manifest["splits"]["train"]["tables"]
    tables[name] = tables.pop("train.labels.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    data.shards = f"file://{folder}"
    with pytest.raises(UserError):
        open_split(data, "train")


@pytest.mark.parametrize("change", ["table", "old", "nothing", "scheme", "query"])
def test_mistakes_are_told_before_anything_starts(built, data, tmp_path, change):
    folder = shutil.copytree(built, tmp_path / "wrong")
    data.shards = f"file://{folder}"
    if change == "table":
        np.save(folder / "train.labels.npy", np.zeros(60, "<i4"))
        expected = "train.labels.npy does not match manifest.json"
    elif change == "old":
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["splits"]["train"]["tables"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
        expected = "has no checksums, which data sets at a URL need"
    elif change == "nothing":
        (folder / "manifest.json").unlink()
        expected = "manifest.json does not exist"
    elif change == "scheme":
        data.shards, expected = (
            "nosuch://bucket/x",
            "is not a URL of a folder: it must begin with http://, https://, s3://, gs://",
        )
    else:
        data.shards, expected = f"file://{folder}?token=1", "no query"
    with pytest.raises(UserError, match=expected):
        open_split(data, "train")


@pytest.mark.parametrize(("package", "url", "mend"), [("gcsfs", "gs://", "gcsfs"), ("s3fs", "s3://", "remote")])
def test_a_missing_package_is_told_in_a_line(data, monkeypatch, package, url, mend):
    monkeypatch.setitem(sys.modules, package, None)
    # fsspec keeps a class that an earlier test imported; the module, since fsspec.registry is a mapping of that name.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url[:2], raising=False)
    data.shards = f"{url}bucket/x"
    with pytest.raises(UserError, match=rf"needs a package that is not installed .*{package}.*: pip install .*{mend}"):
        open_split(data, "train")


@pytest.mark.parametrize("error", [PermissionError("403"), type("NoCredentialsError", (Exception,), {})("none")])
def test_who_may_not_read_is_told_at_once(data, monkeypatch, error):
    with open_split(data, "train") as store:
        monkeypatch.setattr(store.remote._files, "cat_ranges", lambda paths, *_, **__: [error for _ in paths])
        monkeypatch.setattr(spans.time, "sleep", lambda _: pytest.fail("it was asked again"))
        with pytest.raises(StoreFailure, match=r"access denied .*: check the credentials"):
            store.read(0)


def test_a_server_without_ranges_is_named(built, data):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(built))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        data.shards = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(StoreFailure, match="does not support range requests"), open_split(data, "train") as store:
            store.read(0)
        server.shutdown()


def test_the_whole_of_a_file_and_many_spans_at_once(built, data):
    place = Remote(f"file://{built}", 1.0)
    whole = (built / "train-000000.tar").read_bytes()
    spans = [Span("train-000000.tar", at, at + 10) for at in range(0, 2_000, 10)]
    assert b"".join(place.read(spans)) == whole[:2_000] and place.requests == 200
    assert place.read([Span("train-000000.tar", 0, None)]) == [whole]
