"""No file of a source vanishes: layouts as people have them, links, hidden copies, and the sum over all files."""

import io
import json
import os
import socket
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dist_plm.data.format import Manifest
from dist_plm.datasets import build, verify
from dist_plm.datasets.plain import folder
from dist_plm.datasets.tree import HIDDEN, NESTED_LINKS, Tree
from dist_plm.errors import UserError
from tests.unit.test_shards_sources import listed, picture, put


def splits(source: Path) -> dict[str, list[str]]:
    """Class of each entry, by split."""
    found: dict[str, list[str]] = {}
    for split, name, _, _ in listed(folder(source)):
        found.setdefault(split, []).append(name or "")
    return found


def pictures(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        picture(root / name, number)
    return root


def test_a_split_on_another_disk_is_followed(tmp_path):
    pictures(tmp_path, "disk/a/1.png", "disk/b/2.png", "photos/test/c/3.png", "disk2/4.png")
    (tmp_path / "photos" / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "photos" / "test" / "d").symlink_to("../../disk2")
    assert splits(tmp_path / "photos") == {"train": ["a", "b"], "test": ["c", "d"]}
    assert list(folder(tmp_path / "photos").ignored()) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("Train/a/1 TEST/b/2", {"train": ["a"], "test": ["b"]}),
        ("training/a/1 validation/b/2 Testing/c/3", {"train": ["a"], "val": ["b"], "test": ["c"]}),
        ("train/a/1", {"train": ["a"]}),
        ("test/a/1", {"test": ["a"]}),
        ("train/a/1 query/x/2 gallery/y/3", {"train": ["a"], "query": ["x"], "gallery": ["y"]}),
        ("Query/x/2 Gallery/y/3", {"query": ["x"], "gallery": ["y"]}),
        ("photos/train/a/1 photos/valid/b/2", {"train": ["a"], "val": ["b"]}),
        ("archive/photos/a/1 archive/photos/b/2", {"train": ["a", "b"]}),
        ("cats/1 cats/2", {"train": ["cats", "cats"]}),
        ("train/1 bus/2 car/3", {"train": ["bus", "car", "train"]}),
        ("train/1 2", {"train": ["", "train"]}),
        ("photos/a/1 photos/b/2 3", {"train": ["", "photos", "photos"]}),
    ],
)
def test_layouts(tmp_path, names, expected):
    root = pictures(tmp_path / "in", *names.split())
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(root, ".")
    assert splits(root) == expected
    assert listed(folder(tmp_path / "in.tar")) == listed(folder(root))
    assert list(folder(root).ignored()) == []


def test_query_and_gallery_share_their_classes(tmp_path):
    source = folder(pictures(tmp_path, "train/a/1", "query/y/2", "gallery/x/3", "gallery/y/4"))
    assert source.classes == {"train": ["a"], "query": ["x", "y"], "gallery": ["x", "y"]}
    assert [(e.class_name, e.label) for e in source.entries()] == [("a", 0), ("y", 1), ("x", 0), ("y", 1)]


def test_two_folders_of_one_split_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"photos/val and photos/validation in .* both denote the split val"):
        folder(pictures(tmp_path, "photos/val/a/1", "photos/validation/a/2", "photos/train/a/3"))


def test_what_lies_beside_is_named(tmp_path, capsys):
    root = pictures(
        tmp_path / "in", "train/a/1", "test/b/2", "extra/c/3", "loose", ".ipynb_checkpoints/a/1", "train/.x"
    )
    pictures(root, "__MACOSX/train/a/1", "train/a/._1", "train/@eaDir/thumb")
    put(root / "README.md", "read me")
    put(root / "train" / "a" / "Thumbs.db", "cache")
    assert splits(root) == {"train": ["a"], "test": ["b"]}
    beside = "outside of the splits train, test"
    assert dict(folder(root).ignored()) == {
        **dict.fromkeys(("README.md", "extra/c/3", "loose"), beside),
        **dict.fromkeys((".ipynb_checkpoints/a/1", "__MACOSX/train/a/1", "train/.x", "train/a/._1"), HIDDEN),
        **dict.fromkeys(("train/@eaDir/thumb", "train/a/Thumbs.db"), HIDDEN),
    }
    for _ in range(2):  # the second finds the data set complete
        assert build.main(["folder", "--source", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        printed = capsys.readouterr().out
        assert "files of in: 11\n" in printed and "2  taken" in printed and "9  ignored" in printed
        assert f"3  {beside}" in printed and f"6  {HIDDEN}" in printed


def test_links_in_a_circle_end(tmp_path):
    root = pictures(tmp_path / "in", "a/1", "b/2")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "out").symlink_to("../..")
    (root / "b" / "self").symlink_to("self")
    (root / "b" / "other").symlink_to("../a")
    rules = dict(folder(root).ignored())
    assert set(rules) == {"a/out", "a/up", "b/other/out", "b/other/up"}
    assert set(rules.values()) == {"a link to a folder that contains it"}
    assert [source for _, _, _, source in listed(folder(root))] == ["a/1", "b/2", "b/other/1", "b/self"]


def test_links_that_multiply_are_bounded(tmp_path):
    for number in range(30):
        (tmp_path / "in" / f"{number:02d}").mkdir(parents=True)
        for name in "xy":
            (tmp_path / "in" / f"{number:02d}" / name).symlink_to(f"../{number + 1:02d}")
    files = Counter(found.rule != "" for found in Tree(tmp_path / "in").walk())
    assert sum(files.values()) < 30 * 2 ** (NESTED_LINKS + 1)


def test_links_in_a_tar_are_names_of_what_they_lead_to(tmp_path):
    root = pictures(tmp_path / "in", "train/a/1", "train/a/2", "train/b/3", "test/c/4")
    os.link(root / "train/a/1", root / "train/b/1")
    os.link(root / "train/a/2", root / "test/c/2")
    (root / "train/b/5").symlink_to("../a/2")
    (root / "test/d").symlink_to("../train/b")
    (root / "train/b/up").symlink_to("..")
    (root / "train/b/gone").symlink_to("nowhere")
    (root / "train/b/passwd").symlink_to("/etc/passwd")
    (root / "train/b/self").symlink_to("self")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(root, "photos")
    whole, packed = folder(root), folder(tmp_path / "in.tar")
    pairs = list(zip(whole.entries(), packed.entries(), strict=True))
    assert len(pairs) == 18  # of test/d/up, which is train, only the way back to b is a circle
    for a, b in pairs:
        assert (a.split, a.label, f"photos/{a.source}") == (b.split, b.label, b.source)
        if a.source.endswith("passwd"):
            assert a.size > 0 > b.size  # a tar's links lead nowhere outside of it
        else:
            assert a.size == b.size and (a.size < 0 or a.read() == b.read()), a.source
    assert [(f"photos/{path}", rule) for path, rule in whole.ignored()] == list(packed.ignored())


def test_members_that_no_folder_can_hold_are_counted(tmp_path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("../x", "/etc/y", "a/1", "a/1/2", "a"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert [path for path, rule in Tree(tmp_path / "in.tar").walk() if "leads out" in rule] == [
        "../x",
        "/etc/y",
        "a/1/2",
        "a",
    ]


def strange(root: Path) -> int:
    """A tree with 30 kinds of strange entries; the number of its files by a count of its own."""
    good = Image.new("RGB", (8, 8), (200, 30, 30))
    data = io.BytesIO()
    good.save(data, "JPEG")
    jpeg = data.getvalue()
    content: dict[str, bytes] = {
        "train/a/good.jpg": jpeg, "train/a/no suffix": jpeg, "train/a/photo.jpg.1": jpeg, "train/a/x.jfif": jpeg,
        "train/a/wrong.png": jpeg, "train/a/UPPER.JPG": jpeg, "train/a/space at the end ": jpeg,
        "train/a/new\nline.jpg": jpeg, "train/a/empty.jpg": b"", "train/a/cut.jpg": jpeg[:300],
        "train/a/zeros.jpg": bytes(2000), "train/a/page.jpg": b"<html>404</html>", "train/a/notes.txt": b"notes",
        "train/a/film.mp4": b"\0\0\0\x20ftypisom" + bytes(50),
        "train/a/photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "train/a/scan.jp2": b"\0\0\0\x0cjP  \r\n\x87\n", "train/a/draw.svg": b"<svg/>", "train/a/pack.zip": b"PK\3\4",
        "train/.hidden.jpg": jpeg, "train/.git/objects/1": b"blob", "__MACOSX/train/a/._good.jpg": b"\0\5\x16\7",
        "train/a/Thumbs.db": b"db", "extra/z/1.jpg": jpeg, "labels.csv": b"a,b", "test/deep/er/and/deeper/1.jpg": jpeg,
        "test/-dash/1.jpg": jpeg, "elsewhere/l/1.jpg": jpeg,
    }  # fmt: skip
    names = [os.fsencode(name) for name in content] + [b"test/latin \xe9/caf\xe9.jpg"]
    for name, each in zip(names, [*content.values(), jpeg], strict=True):
        put(root / os.fsdecode(name), each)
    (root / "test" / "linked").symlink_to("../elsewhere/l")  # one more file by another way
    (root / "test" / "circle").symlink_to("..")
    (root / "test" / "broken.jpg").symlink_to("nowhere")
    (root / "test" / "self.jpg").symlink_to("self.jpg")
    (root / "test" / "file link.jpg").symlink_to("../train/a/good.jpg")
    os.link(root / "train/a/good.jpg", root / "test/hard.jpg")
    os.mkfifo(root / "test" / "pipe.jpg")
    (root / "test" / "empty folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root / "test")  # the path of a socket is short
        listening.bind("socket")
        os.chdir(here)
    return len(names) + 1 + 7


@pytest.mark.parametrize("pack", [False, True], ids=["folder", "tar"])
def test_the_account_of_a_strange_tree_adds_up(tmp_path, capsys, pack):
    root, out = tmp_path / "in", tmp_path / "out"
    files = strange(root)
    source = root
    if pack:
        source = tmp_path / "in.tar"
        with tarfile.open(source, "w") as tar:
            tar.add(root, ".")
        files -= 1  # tarfile stores no socket
    assert build.main(["folder", "--source", str(source), "--out", str(out), "--workers", "1"]) == 0
    manifest = Manifest.load(out)
    lists = {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        for name in ("rejected", "ignored")
    }
    taken = sum(info.samples for info in manifest.splits.values())
    assert taken + len(lists["rejected"]) + len(lists["ignored"]) == files
    assert (manifest.rejected, manifest.ignored) == (len(lists["rejected"]), len(lists["ignored"]))
    assert taken == 8 + 6 and all(each["reason"] for name in lists for each in lists[name])
    printed = capsys.readouterr().out
    assert f"files of in: {files}\n" in printed and "JPEG 2000" in printed
    assert verify.main([str(out), "--workers", "1"]) == 0
    (out / "ignored.jsonl").write_text("")
    assert verify.main([str(out), "--workers", "1"]) == 1
