"""Data sets from lists of files and from tars of another program, against the files themselves."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from dist_plm.data.store import Store
from dist_plm.datasets.build import main


def picture(number: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def build(kind: str, source, out) -> int:
    return main([kind, "--source", str(source), "--workers", "1", "--out", str(out)])


def held(out, split: str) -> dict[bytes, str | None]:
    """Image to name of its class."""
    with Store(out, split) as store:
        names = [*store.classes, None]
        return {store.read(id): names[store.labels[id]] for id in range(len(store))}


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"in/{number}.png").write_bytes(picture(number))
    return tmp_path


def test_a_csv_with_labels_and_splits(images):
    rows = ["path,label,split", "in/0.png,a,train", "in/1.png,,train", "in/2.png,b,test", "in/3.png,c,Val"]
    (images / "list.csv").write_text("\n".join([*rows, "in/0.png,a,train", "in/9.png,a,train"]))
    assert build("list", images / "list.csv", images / "out") == 0
    assert held(images / "out", "train") == {picture(0): "a", picture(1): None}
    assert held(images / "out", "test") == {picture(2): "b"}
    assert held(images / "out", "val") == {picture(3): "c"}
    assert "in/9.png" in (images / "out/rejected.jsonl").read_text()


def test_a_text_file_of_paths(images):
    (images / "list.txt").write_text(f"in/0.png\n\n{images / 'in/1.png'}\n")
    assert build("list", images / "list.txt", images / "out") == 0
    assert held(images / "out", "train") == {picture(0): None, picture(1): None}


@pytest.mark.parametrize(
    "text, said",
    [("file,label\na.png,x", "must name path"), ("path,split\na.png,holdout", "holdout"), ("path", "lists no images")],
)
def test_a_list_that_is_none(text, said, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(text)
    assert build("list", tmp_path / "list.csv", tmp_path / "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_quotation_mark_swallows_no_rows(images, capsys):
    """Alone it would make the rest of the file, or all up to the next one, a single label."""
    rows = ["path,label", 'in/0.png,a 12" disc', 'in/1.png,"12 inch', *["in/2.png,c", "in/3.png,d"] * 8_000]
    for kept, more in (
        (50, ""),
        (50, '\nin/3.png,"14 inch"'),
        (len(rows), ""),
    ):  # all are more than csv holds in a field
        (images / "list.csv").write_text("\n".join(rows[:kept]) + more)
        assert build("list", images / "list.csv", images / "out") == 2
        assert "list.csv, line 3: a quoted field does not end" in capsys.readouterr().err
    (images / "list.csv").write_text("\n".join([*rows[:2], 'in/1.png,"12"" a,\nb"']))
    assert build("list", images / "list.csv", images / "out") == 0
    assert held(images / "out", "train") == {picture(0): 'a 12" disc', picture(1): '12" a,\nb'}


def write_tar(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def test_labels_and_names_of_tars(tmp_path):
    """-1 is no class, 2.0 is 2; one of two files of a name in both cases is taken, the other listed."""
    files = {f"{number}.png": picture(number) for number in range(5)}
    labels = {"0.cls": b"-1", "1.json": b'{"class": -1}', "2.json": b'{"class": 2.0}', "3.json": b'{"label": 0.5}'}
    write_tar(tmp_path / "x.tar", files | labels | {"4.PNG": picture(9), "4.cls": b"2\n"})
    assert build("tars", tmp_path / "x.tar", tmp_path / "out") == 0
    assert held(tmp_path / "out", "train") == {
        picture(number): name for number, name in enumerate([None, None, "2", "0.5", "2"])
    }
    ignored = [json.loads(line)["source"] for line in (tmp_path / "out/ignored.jsonl").read_text().splitlines()]
    assert ignored == ["x.tar/4.PNG"]


@pytest.mark.parametrize("kind", ["tars", "folder"])
def test_members_that_cost_more_than_they_hold_are_listed_and_not_read(tmp_path, kind):
    deep, large = "a/" * 8_000 + "x.png", b'{"class": ' + b"[]," * 400_000
    write_tar(tmp_path / "x.tar", {"0.png": picture(0), "0.json": large, "1.png": picture(1), deep: picture(2)})
    assert build(kind, tmp_path / "x.tar", tmp_path / "out") == 0
    assert held(tmp_path / "out", "train") == {picture(0): None, picture(1): None}
    listed = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("*.jsonl")))
    assert "more than 256 folders" in listed
    assert ("a label of more than 1 MiB" if kind == "tars" else "not an image") in listed


def test_tars_of_another_program(tmp_path):
    members = {
        "train-0.tar": {"a.jpg": picture(0, "JPEG"), "a.cls": b"7", "b.png": picture(1), "b.txt": b"a caption"},
        "val-0.tar": {"d/c.webp": picture(2, "WEBP"), "d/c.json": json.dumps({"label": 3}).encode()},
    }
    for name, files in members.items():
        write_tar(tmp_path / name, files)
    assert build("tars", tmp_path, tmp_path / "out") == 0
    assert held(tmp_path / "out", "train") == {picture(0, "JPEG"): "7", picture(1): None}
    assert held(tmp_path / "out", "val") == {picture(2, "WEBP"): "3"}
    assert "b.txt" in (tmp_path / "out/ignored.jsonl").read_text()
