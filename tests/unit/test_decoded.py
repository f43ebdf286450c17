"""The decoded cache against Pillow, image by image, and what stands in its way."""

import io
import shutil
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from benchmarks.common import on_ranks
from dist_plm.config import DataConfig, ViewsConfig
from dist_plm.data import decoded
from dist_plm.data.decoded import DecodedStore, decode_once, estimated_bytes
from dist_plm.data.loader import Loader
from dist_plm.data.store import Store
from dist_plm.data.stream import sweep_shards
from dist_plm.data.views import eval_view
from dist_plm.distributed.world import World
from dist_plm.errors import UserError
from dist_plm.telemetry.progress import Display

SIDE = 24
VIEWS = ViewsConfig(size=16, resize=20)
Usage = namedtuple("Usage", "total used free")


def once(shards, cache, side: int = SIDE, world: World | None = None) -> Store:
    world = world or World()
    config = DataConfig(shards=str(shards), cache_dir=str(cache), decoded_side=side, workers=2)
    return decode_once(Store(shards, "train"), config=config, world=world, display=Display(world))


def oracle(data: bytes, side: int = SIDE) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if min(image.size) > side:
        scale = side / min(image.size)
        size = [side if each == min(image.size) else int(each * scale) for each in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


def test_a_damaged_image_is_named(tiny_split, tmp_path, monkeypatch):
    """One beyond the sample by which the size is estimated."""
    images = tiny_split([9])
    monkeypatch.setattr(decoded, "SAMPLE", 2)
    with Store(tmp_path, "train") as store:
        shard, offset = store.shards[0].path, int(store.offsets[4]["offset"])
    data = bytearray(shard.read_bytes())
    data[offset : offset + len(images[4])] = bytes(len(images[4]))
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"train-000000.tar: sample '.+': not an image.*dist-plm shards verify"):
        once(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("side", [24, 25, 300])
def test_pixels_are_those_of_the_smaller_image(tiny_split, tmp_path, side):
    images = tiny_split([5, 1, 4])
    with once(tmp_path, tmp_path / "cache", side) as store:
        for id in (9, 0, 5, 5, 3, 8, 1, 2, 4, 6, 7):
            assert (np.asarray(store.read_image(id)) == oracle(images[id], side)).all()
        assert [store.read(id) for id in range(10)] == images and store.about(4)["split"] == "train"
        shards = sweep_shards(store, range(3), config=VIEWS, batch_size=2, workers=2)
        swept = [batch for _, batches in shards for batch in batches]
        for id, view in enumerate(np.concatenate(swept)):
            assert (view == eval_view(Image.fromarray(oracle(images[id], side)), config=VIEWS)).all()


def test_evaluation_views_of_the_same_side_differ_by_a_level_at_most(tiny_split, tmp_path):
    images = tiny_split([6], size=(90, 64))
    with once(tmp_path, tmp_path / "cache", VIEWS.resize) as store:
        for id, data in enumerate(images):
            whole = eval_view(Image.open(io.BytesIO(data)), config=VIEWS).astype(int)
            assert abs(whole - eval_view(store.read_image(id), config=VIEWS)).max() <= 1


def test_files_of_another_run_are_found_and_those_that_are_missing_made_again(tiny_split, tmp_path, monkeypatch):
    tiny_split([5, 1, 4])
    with once(tmp_path, tmp_path / "cache") as store:
        expected = [np.asarray(store.read_image(id)) for id in range(10)]
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(files) == 6
    files[0].unlink()
    read, begun = Store.in_order, []
    monkeypatch.setattr(Store, "in_order", lambda self, number: begun.append(number) or read(self, number))
    with once(tmp_path, tmp_path / "cache") as store:
        assert begun == [0]
        assert all((np.asarray(store.read_image(id)) == expected[id]).all() for id in range(10))


def together(world: World, shards: str, cache: str) -> tuple[int, list[bytes]]:
    made: list[int] = []
    make = decoded._decode_shard
    decoded._decode_shard = lambda *arguments: made.append(arguments[2]) or make(*arguments)  # type: ignore[assignment]
    store = once(shards, cache, world=world)
    return len(made), [store.read_image(id).tobytes() for id in range(len(store))]


def test_ranks_of_a_node_share_the_work_and_the_files(tiny_split, tmp_path):
    images = tiny_split([5, 2, 4, 3])
    (one, first), (two, second) = on_ranks(2, tmp_path, together, str(tmp_path), str(tmp_path / "cache"))
    assert (one, two) == (2, 2) and first == second == [oracle(data).tobytes() for data in images]


def test_a_disk_without_room_is_told_and_nothing_written(tiny_split, tmp_path, monkeypatch):
    tiny_split([5])
    size = estimated_bytes(Store(tmp_path, "train"), SIDE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, size - 1))
    with pytest.raises(UserError, match=r"data.decoded_side 24 needs about .* GB left: name another data.cache_dir"):
        once(tmp_path, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_its_size_is_known_beforehand(tiny_split, tmp_path):
    tiny_split([7, 9])
    expected = estimated_bytes(Store(tmp_path, "train"), SIDE)
    with once(tmp_path, tmp_path / "cache") as store:
        assert isinstance(store, DecodedStore)
    found = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.pixels"))
    assert found == expected


def test_a_loader_takes_them(tiny_split, tmp_path):
    tiny_split([8])
    with once(tmp_path, tmp_path / "cache") as store:
        rows = np.arange(8).reshape(2, 4)
        batches = list(Loader(store, rows, views=VIEWS, seed=0, epoch=0, workers=2, prefetch=1))
        assert [batch.ids.tolist() for batch in batches] == rows.tolist()
