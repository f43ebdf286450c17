"""The official layouts, made small by hand, and plain folders: who belongs to which split under which label."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from dist_plm.datasets.entry import key_of
from dist_plm.datasets.sources import cars196, cub200, folder, inshop, sop
from dist_plm.datasets.tree import Tree
from dist_plm.errors import UserError


def put(path: Path, content: bytes | str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def picture(path: Path, shade: int) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "PNG")
    put(path, file.getvalue())


def listed(source) -> list[tuple[str, str | None, int | None, str]]:
    return [(e.split, e.class_name, e.label, e.source) for e in source.entries()]


@pytest.fixture
def cub(tmp_path) -> Path:
    root = tmp_path / "given" / "CUB_200_2011"
    classes = [1, 2, 100, 101, 200]
    names = {c: f"{c:03d}.Bird_{c}" for c in classes}
    put(root / "classes.txt", "".join(f"{c} {n}\n" for c, n in names.items()))
    rows = [(i + 1, classes[i % 5], f"{names[classes[i % 5]]}/bird_{i}.png") for i in range(10)]
    put(root / "images.txt", "".join(f"{i} {path}\n" for i, _, path in rows))
    put(root / "image_class_labels.txt", "".join(f"{i} {c}\n" for i, c, _ in rows))
    for i, _, path in rows:
        picture(root / "images" / path, i)
    return root


def test_cub200_splits_at_class_100(cub):
    source = cub200(cub)
    rows = listed(source)
    assert source.classes == {
        "train": ["001.Bird_1", "002.Bird_2", "100.Bird_100"],
        "test": ["101.Bird_101", "200.Bird_200"],
    }
    assert [r[0] for r in rows] == ["train"] * 6 + ["test"] * 4
    assert all(source.classes[split][label] == name and name in path for split, name, label, path in rows)
    assert source.official == {"train": 5864, "test": 5924}


def test_cub200_is_the_same_from_its_parent_and_from_a_tar(cub, tmp_path):
    tar = tmp_path / "cub.tar"
    with tarfile.open(tar, "w") as file:
        file.add(cub, "./CUB_200_2011")
    from_folder, from_tar = cub200(cub.parent), cub200(tar)
    assert listed(from_folder) == listed(from_tar)
    pairs = list(zip(from_folder.entries(), from_tar.entries(), strict=True))
    assert len(pairs) == 10 and all(a.read() == b.read() for a, b in pairs)
    assert [repr(a) for a, _ in pairs] == [repr(b) for _, b in pairs]


def test_a_listed_image_that_is_missing_stays_in_the_list(cub):
    (cub / "images" / "001.Bird_1" / "bird_0.png").unlink()
    missing = [entry for entry in cub200(cub).entries() if entry.size < 0]
    assert [entry.source for entry in missing] == ["images/001.Bird_1/bird_0.png"]
    with pytest.raises(OSError, match="missing"):
        missing[0].read()


def test_official_cub200():
    shared = Path(os.environ.get("DIST_PLM_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    tar = shared / "data" / "cub_200_2011_256px.tar"
    if not tar.exists():
        pytest.skip(f"{tar} is not there")
    entries = list(cub200(tar).entries())
    assert [sum(e.split == split for e in entries) for split in ("train", "test")] == [5864, 5924]
    assert len({e.key for e in entries}) == 11_788 and min(e.size for e in entries) > 0
    assert {e.label for e in entries if e.split == "test"} == set(range(100))


def matlab(rows: list[tuple], names: list[str]) -> np.ndarray:
    """A MATLAB struct array."""
    made = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        made[0, i] = row
    return made


def test_cars196_in_one_folder(tmp_path):
    names = np.array([f"Car {c}" for c in range(1, 197)], dtype=object)
    rows = [(f"car_ims/{i:06d}.jpg", float(c), float(c % 2)) for i, c in enumerate([1, 98, 99, 196, 98])]
    annotations = matlab(rows, ["relative_im_path", "class", "test"])
    scipy.io.savemat(tmp_path / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    assert listed(cars196(tmp_path)) == [
        ("train", "Car 1", 0, "car_ims/000000.jpg"),
        ("train", "Car 98", 97, "car_ims/000001.jpg"),
        ("train", "Car 98", 97, "car_ims/000004.jpg"),
        ("test", "Car 99", 0, "car_ims/000002.jpg"),
        ("test", "Car 196", 97, "car_ims/000003.jpg"),
    ]


def test_cars196_in_two_folders_with_a_devkit(tmp_path):
    kit = tmp_path / "devkit"
    kit.mkdir()
    scipy.io.savemat(
        kit / "cars_meta.mat", {"class_names": np.array([f"Car {c}" for c in range(1, 197)], dtype=object)}
    )
    fields = ["bbox_x1", "class", "fname"]
    train = matlab([(3.0, 99.0, "00001.jpg"), (3.0, 5.0, "00002.jpg")], fields)
    test = matlab([(3.0, 5.0, "00001.jpg"), (3.0, 196.0, "00002.jpg")], fields)
    scipy.io.savemat(kit / "cars_train_annos.mat", {"annotations": train})
    with pytest.raises(UserError, match="cars_test_annos_withlabels"):
        cars196(tmp_path)
    scipy.io.savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": test})
    assert listed(cars196(tmp_path)) == [
        ("train", "Car 5", 4, "cars_test/00001.jpg"),
        ("train", "Car 5", 4, "cars_train/00002.jpg"),
        ("test", "Car 196", 97, "cars_test/00002.jpg"),
        ("test", "Car 99", 0, "cars_train/00001.jpg"),
    ]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (["relative_im_path", "class"], ("car_ims/1.jpg", 197.0)),
        (["relative_im_path", "class"], ("car_ims/1.jpg", 0.0)),
        (["relative_im_path", "class"], ("car_ims/1.jpg", "sedan")),
        (["fname", "class"], ("car_ims/1.jpg", 5.0)),
    ],
)
def test_annotations_of_something_else_are_named(tmp_path, fields, row):
    names = np.array([f"Car {c}" for c in range(1, 197)], dtype=object)
    scipy.io.savemat(tmp_path / "cars_annos.mat", {"annotations": matlab([row, row], fields), "class_names": names})
    with pytest.raises(UserError, match=r"cars_annos.mat, or a file beside it, is not an annotation file of Cars-196"):
        cars196(tmp_path)


@pytest.mark.parametrize("length", [0, 100, 130, 700, 900])
def test_a_torn_matlab_file_is_named(tmp_path, length):
    path = tmp_path / "cars_annos.mat"
    names = np.array([f"Car {c}" for c in range(1, 197)], dtype=object)
    rows = [(f"car_ims/{i:06d}.jpg", 1.0) for i in range(9)]
    scipy.io.savemat(path, {"class_names": names, "annotations": matlab(rows, ["relative_im_path", "class"])})
    os.truncate(path, length)
    with pytest.raises(UserError, match=r"cars_annos.mat"):
        cars196(tmp_path)


def test_sop_without_its_second_list(tmp_path):
    put(tmp_path / "Ebay_train.txt", "image_id class_id super_class_id path\n1 2 1 mug_final/b_0.JPG\n")
    with pytest.raises(UserError, match=r"found none of Ebay_test.txt"):
        sop(tmp_path)


def test_a_short_line_is_counted_with_the_blank_ones(tmp_path):
    put(tmp_path / "Ebay_train.txt", "image_id class_id super_class_id path\n\n1 2 1 a.JPG\n\n1 2\n")
    with pytest.raises(UserError, match=r"Ebay_train.txt, line 5: 4 fields expected, 2 found"):
        Tree(tmp_path).lines("Ebay_train.txt", 4, skip=1)


def test_sop_follows_its_lists(tmp_path):
    header = "image_id class_id super_class_id path\n"
    put(tmp_path / "Ebay_train.txt", header + "1 2 1 mug_final/b_0.JPG\n2 1 1 mug_final/a_0.JPG\n")
    put(tmp_path / "Ebay_test.txt", header + "3 11319 1 sofa_final/c_0.JPG\n4 11320 1 sofa_final/c_1.JPG\n")
    assert listed(sop(tmp_path)) == [
        ("train", "00001", 0, "mug_final/a_0.JPG"),
        ("train", "00002", 1, "mug_final/b_0.JPG"),
        ("test", "11319", 0, "sofa_final/c_0.JPG"),
        ("test", "11320", 1, "sofa_final/c_1.JPG"),
    ]


def test_inshop_query_and_gallery_number_the_same_classes(tmp_path):
    rows = [("a", "id_3", "train"), ("b", "id_7", "query"), ("c", "id_7", "gallery"), ("d", "id_9", "gallery")]
    text = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    put(tmp_path / "Eval/list_eval_partition.txt", text + "".join(f"img/{p}.jpg  {i}   {s}\n" for p, i, s in rows))
    picture(tmp_path / "Img/img/a.jpg", 1)
    assert listed(inshop(tmp_path)) == [
        ("train", "id_3", 0, "Img/img/a.jpg"),
        ("query", "id_7", 0, "Img/img/b.jpg"),
        ("gallery", "id_7", 0, "Img/img/c.jpg"),
        ("gallery", "id_9", 1, "Img/img/d.jpg"),
    ]


def test_folder_takes_every_file_and_labels_by_first_level(tmp_path):
    for name in ("b/2.png", "b/deep/1.png", "a/1.png", "loose.png", "b/notes.txt"):
        put(tmp_path / name)
    assert listed(folder(tmp_path)) == [
        ("train", "a", 0, "a/1.png"),
        ("train", "b", 1, "b/2.png"),
        ("train", "b", 1, "b/deep/1.png"),
        ("train", "b", 1, "b/notes.txt"),
        ("train", None, None, "loose.png"),
    ]


@pytest.mark.parametrize("other", ["test", "val"])
def test_folder_with_splits(tmp_path, other):
    for name in ("train/a/1.png", "train/2.png", f"{other}/z/1.png"):
        put(tmp_path / name)
    source = folder(tmp_path)
    assert source.classes == {"train": ["a"], other: ["z"]}
    assert listed(source) == [
        ("train", None, None, "train/2.png"),
        ("train", "a", 0, "train/a/1.png"),
        (other, "z", 0, f"{other}/z/1.png"),
    ]


def test_a_class_that_comes_while_a_folder_is_read_is_said(tmp_path):
    put(tmp_path / "a" / "1.jpg")
    source = folder(tmp_path)
    put(tmp_path / "b" / "2.jpg")
    with pytest.raises(UserError, match=r"b/2.jpg appeared while"):
        list(source.entries())


def test_folder_follows_no_link_in_a_circle_and_waits_for_no_pipe(tmp_path):
    picture(tmp_path / "a/1.png", 1)
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "a/2.png").symlink_to(tmp_path / "a/1.png")
    os.mkfifo(tmp_path / "a/pipe")
    sizes = {entry.source: entry.size for entry in folder(tmp_path).entries()}
    assert sizes["a/1.png"] == sizes["a/2.png"] > 0
    assert sizes["a/pipe"] == -1 and len(sizes) == 3
    assert [path for path, _ in folder(tmp_path).ignored()] == ["a/again"]


def test_folder_in_a_tar_is_the_folder(tmp_path):
    for name in ("in/train/a/1.png", "in/train/2.png", "in/test/b/3.png"):
        picture(tmp_path / name, 9)
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        tar.add(tmp_path / "in", ".")
    assert listed(folder(tmp_path / "in.tar")) == listed(folder(tmp_path / "in"))


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b"])
def test_a_list_cannot_lead_out_of_the_source(tmp_path, path):
    with pytest.raises(UserError, match="leads out"):
        Tree(tmp_path).entry(path, split="train", label=None, class_name=None)


def test_wrong_sources_are_named(tmp_path):
    put(tmp_path / "file.tar.gz", b"\x1f\x8b no tar")
    for layout, source, message in (
        (cub200, tmp_path, "images.txt"),
        (sop, tmp_path, "Ebay_train.txt"),
        (folder, tmp_path / "nowhere", "neither a folder nor a tar"),
        (folder, tmp_path / "file.tar.gz", "not an uncompressed tar"),
    ):
        with pytest.raises(UserError, match=message):
            layout(source)


def test_keys_are_safe_and_tell_sources_apart():
    sources = ["a/x.jpg", "b/x.jpg", "a/x.png", "a/Ünï cödé.v2.jpg", "..", "a/" + "n" * 300 + ".jpg", "a/\udcff.jpg"]
    keys = [key_of(source) for source in sources]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and len(key) <= 65 and not set(key) & set("./\\ ") for key in keys)
