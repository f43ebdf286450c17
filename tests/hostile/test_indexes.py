"""Indexes from elsewhere: nothing in them opens another file, shows another folder, or passes for a cosine."""

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from dist_plm import search as searching
from dist_plm.errors import UserError
from dist_plm.search_index.search_index import SearchIndex
from tests.end_to_end.conftest import refused
from tests.end_to_end.test_serve import search_index  # noqa: F401
from tests.hostile.limits import limited


@pytest.fixture
def index(search_index, tmp_path) -> Path:  # noqa: F811
    """A copy of an index that this account made, which a test may change."""
    return shutil.copytree(search_index.folder, tmp_path / "index")


def change(index: Path, **values) -> None:
    path = index / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def opened(folder: Path) -> list[list[int]]:
    found = SearchIndex(folder)
    return [[each.row for each in row] for row in found.search(np.asarray(found.embeddings[:3]), 5)]


def on_disk(index: Path) -> None:
    """Inverted lists in a file elsewhere that is shorter than they are."""
    points, elsewhere = np.load(index / "embeddings.npy"), index.parent / "lists"
    quantizer = faiss.IndexFlatIP(points.shape[1])
    ivf = faiss.IndexIVFFlat(quantizer, points.shape[1], 4, faiss.METRIC_INNER_PRODUCT)
    ivf.train(points)
    lists = faiss.OnDiskInvertedLists(4, ivf.code_size, str(elsewhere))
    ivf.replace_invlists(lists)
    ivf.add(points)
    faiss.write_index(ivf, str(index / "index.faiss"))
    elsewhere.write_bytes(b"")


def mapped(index: Path) -> None:
    points = np.load(index / "embeddings.npy")
    named = faiss.IndexIDMap(faiss.IndexFlatIP(points.shape[1]))
    named.add_with_ids(points, np.arange(len(points)) + 10**6)
    faiss.write_index(named, str(index / "index.faiss"))


@pytest.mark.parametrize("spoil", [on_disk, mapped, lambda index: (index / "index.faiss").write_bytes(b"IxF2" * 100)])
def test_index_faiss_is_for_other_programs(index, search_index, spoil):  # noqa: F811
    expected = opened(search_index.folder)
    spoil(index)
    change(index, files={})
    found = limited(opened, index, seconds=20, megabytes=500)
    assert not found.error and found.value == expected, found


def test_only_a_folder_that_was_named_here_is_shown(index, search_index, tmp_path, here, monkeypatch):  # noqa: F811
    private = tmp_path / "private"
    photo = search_index.images.read(0)
    for row in search_index.rows:
        path = private / row["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    change(index, images={"kind": "folder", "folder": str(private)})
    with pytest.raises(UserError, match="was not made by this account"):
        _ = SearchIndex(index).images
    sheet = ("--image", private / search_index.rows[0]["name"], "--sheet", tmp_path / "sheet.png")
    refused(here(searching.main, index, *sheet), "show that folder, name it with --images")
    assert not (tmp_path / "sheet.png").exists()
    assert here(searching.main, index, *sheet[:2]).status == 0  # a table alone shows nothing
    assert here(searching.main, index, *sheet, "--images", private).status == 0
    assert SearchIndex(index, images=private).images.read(3) == photo
    # Another account, or a machine without the key, is asked too.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(UserError, match="was not made by this account"):
        _ = SearchIndex(search_index.folder).images


def test_images_within_the_index_are_its_own(index):
    (index / "photos").mkdir()
    change(index, images={"kind": "folder", "folder": str(index / "photos")}, signature="")
    assert len(SearchIndex(index).images) == 20
    change(index, images={"kind": "folder", "folder": str(index / "photos" / ".." / "..")})
    with pytest.raises(UserError, match="was not made by this account"):
        _ = SearchIndex(index).images


def test_no_link_leads_out_of_an_index(index, search_index, tmp_path):  # noqa: F811
    private, photos = tmp_path / "private", index / "photos"
    private.mkdir()
    photos.mkdir()
    photo = search_index.images.read(0)
    (private / "secret.png").write_bytes(photo)
    (photos / "own.png").write_bytes(photo)
    (photos / "link").symlink_to(private)
    (photos / "secret.png").symlink_to(private / "secret.png")
    (photos / "inner.png").symlink_to("own.png")
    records = [json.loads(line) for line in (index / "images.jsonl").read_text().splitlines()]
    names = ("link/secret.png", "secret.png", "own.png", "inner.png")
    records[:4] = [{**record, "name": name} for record, name in zip(records, names, strict=False)]
    (index / "images.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    change(index, images={"kind": "folder", "folder": str(photos)}, signature="", files={})
    images = SearchIndex(index).images
    for row in (0, 1):
        with pytest.raises(PermissionError, match=r"a link out of .*, the folder of an index of another account"):
            images.read(row)
    assert images.read(2) == images.read(3) == photo
    again = images.listed_again()
    assert sum(again.about(number)["name"] in names for number in range(len(again))) == 4
    with pytest.raises(PermissionError):
        again.read([again.about(number)["name"] for number in range(len(again))].index("secret.png"))
    # In a folder of one's own, links are followed.
    assert SearchIndex(index, images=photos).images.read(0) == photo


def test_no_shard_of_an_index_lies_elsewhere(index, demo, tmp_path):
    shards = shutil.copytree(demo, index / "shards")
    fingerprint = json.loads((shards / "manifest.json").read_text())["fingerprint"]
    place = {"kind": "shards", "folder": str(shards), "split": "test", "fingerprint": fingerprint}
    records = [json.loads(line) for line in (index / "images.jsonl").read_text().splitlines()]
    text = "".join(json.dumps({**record, "id": id}) + "\n" for id, record in enumerate(records))
    (index / "images.jsonl").write_text(text)
    change(index, images=place, signature="", files={})
    assert SearchIndex(index).images.read(0)
    shard = sorted(shards.glob("test-*.tar"))[0]
    shard.rename(tmp_path / "elsewhere.tar")
    shard.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match=r"holds a link out of .*: don't trust it"):
        _ = SearchIndex(index).images


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "reference::file:///x", "file:///etc"])
def test_no_url_of_a_stranger_is_asked(index, url):
    place = {"kind": "shards", "folder": url, "split": "test", "fingerprint": "0" * 64}
    change(index, images=place)
    with pytest.raises(UserError, match="was not made by this account"):
        _ = SearchIndex(index).images


PLACES = [None, 7, [], {}, {"kind": "shards", "folder": "x"}, {"kind": []}, "x"]


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_none(index, place, tmp_path):
    change(index, images=place)
    for images in ("", tmp_path):
        with pytest.raises(UserError):
            _ = SearchIndex(index, images=images).images


def rows(index: Path, make) -> None:
    points = np.load(index / "embeddings.npy")
    np.save(index / "embeddings.npy", make(points))


def archive(index: Path) -> None:
    np.savez(index / "x.npz", np.zeros(3))
    (index / "x.npz").rename(index / "embeddings.npy")


def scaled(points: np.ndarray) -> np.ndarray:
    points[7] *= 3
    return points


def infinite(points: np.ndarray) -> np.ndarray:
    points[7, 2] = np.nan
    return points


EMBEDDINGS = {
    "archive": archive,
    "objects": lambda index: np.save(index / "embeddings.npy", np.array([{}] * 20), allow_pickle=True),
    "empty": lambda index: (index / "embeddings.npy").write_bytes(b""),
    "header": lambda index: (index / "embeddings.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000),
    "text": lambda index: rows(index, lambda points: points.astype("U5")),
    "double": lambda index: rows(index, lambda points: points.astype("f8")),
    "cube": lambda index: rows(index, lambda points: points[None]),
    "one row": lambda index: rows(index, lambda points: points[0]),
    "scaled": lambda index: rows(index, scaled),
    "not finite": lambda index: rows(index, infinite),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_that_are_none(index, name):
    EMBEDDINGS[name](index)
    change(index, files={})
    with pytest.raises(UserError) as refusal:
        SearchIndex(index)
    assert "embeddings.npy" in str(refusal.value) or "damaged index" in str(refusal.value)


LINES = [
    b"[" * 100_000,
    b"{" + b'"a":{' * 100_000,
    b"7",
    b"[]",
    b"{}",
    b"\xff",
    b'{"name": "' + b"x" * 2_000_000 + b'"}',
]


@pytest.mark.parametrize("number", range(len(LINES)))
def test_lines_that_are_none(index, number):
    text = (index / "images.jsonl").read_bytes().split(b"\n", 1)[1]
    (index / "images.jsonl").write_bytes(LINES[number] + b"\n" + text)
    change(index, files={})
    with pytest.raises(UserError, match="is a damaged index"):
        SearchIndex(index)


@pytest.mark.parametrize(
    "text", [b"[" * 10**6, b"", b"[]", b'{"format": 1, "files": []}', b'{"format":' + b"9" * 5_000]
)
def test_a_summary_that_is_none(index, text):
    (index / "index.json").write_bytes(text)
    with pytest.raises(UserError, match=r"index.json is damaged"):
        SearchIndex(index)


def test_a_summary_of_a_gigabyte_is_not_read(index):
    with (index / "index.json").open("r+b") as file:
        file.truncate(10**9)
    found = limited(opened, index, seconds=5, megabytes=300)
    assert found.error.startswith("UserError") and "larger than" in found.error, found


@pytest.mark.parametrize(
    "make", [lambda q: q * 3, lambda q: q * 0, lambda q: q * np.nan, lambda q: q / 2, lambda q: q[0]]
)
def test_a_query_is_of_unit_length_and_finite(search_index, make):  # noqa: F811
    queries = np.asarray(search_index.embeddings[:2])
    with pytest.raises(UserError, match="quer"):
        search_index.search(make(queries), 3)
    with pytest.raises(UserError, match="for an index of dimension 8"):
        search_index.search(queries[:, :5], 3)
