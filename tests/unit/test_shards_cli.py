"""The command line of the builder: a mistake is one line and status 2, and nothing is touched."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards import build

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> int:
    return build.main([str(a) for a in arguments])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("state", ["complete", "partial", "foreign", "file"])
def test_another_data_set_is_refused_and_untouched(tmp_path, capsys, state):
    out = tmp_path / "out"
    if state == "complete":
        assert run("demo", "--images", 30, "--out", out, "--workers", 1) == 0
    elif state == "partial":
        out.mkdir()
        (out / ".build").mkdir()
        (out / ".build" / "request.json").write_text("{}")
    elif state == "foreign":
        out.mkdir()
        (out / "thesis.doc").write_text("years of work")
    else:
        out.write_text("a file")
    before = content(out) if out.is_dir() else out.read_text()
    capsys.readouterr()
    assert run("demo", "--images", 20, "--out", out, "--workers", 1) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(out) in error
    assert (content(out) if out.is_dir() else out.read_text()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["demo", "--images", "0", "--out", "{out}"],
        ["demo", "--images", "many", "--out", "{out}"],
        ["demo", "--images", "10", "--shard-size", "-1", "--out", "{out}"],
        ["demo", "--images", "10", "--classes", "99999", "--out", "{out}"],
        ["folder", "--out", "{out}"],
        ["cub200", "--source", "{source}", "--out", "{out}"],
        ["folder", "--source", "{source}/nowhere", "--out", "{out}"],
    ],
)
def test_wrong_usage_is_one_line_status_2_and_touches_nothing(tmp_path, capsys, arguments):
    filled = [a.format(out=tmp_path / "out", source=tmp_path) for a in arguments]
    try:
        status = build.main(filled)
    except SystemExit as leaving:
        status = leaving.code
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_readable_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert run("folder", "--source", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1) == 2
    assert "no image of the split 'train'" in capsys.readouterr().err


def test_a_part_of_an_official_data_set_is_built_with_a_warning(tmp_path, capsys):
    root = tmp_path / "CUB_200_2011"
    for number, name in ((1, "001.A"), (101, "101.B")):
        (root / "images" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / "images" / name / "x.png")
    (root / "classes.txt").write_text("1 001.A\n101 101.B\n")
    (root / "images.txt").write_text("1 001.A/x.png\n2 101.B/x.png\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 101\n")
    assert run("cub200", "--source", tmp_path, "--out", tmp_path / "out", "--workers", 1) == 0
    assert "warning: train has 1 samples, the official cub200 5,864" in capsys.readouterr().out


def test_build_and_verify_as_a_person_runs_them(tmp_path):
    out = tmp_path / "demo"
    for arguments in (
        ["build.py", "demo", "--images", "40", "--out", out, "--workers", "1"],
        ["verify.py", out, "--workers", "1"],
    ):
        done = subprocess.run(
            [sys.executable, ROOT / "shards" / arguments[0], *arguments[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "40 samples" in done.stdout
    first = np.load(out / "train.offsets.npy")[0]
    data = (out / "train-000000.tar").read_bytes()[first["offset"] :][: first["size"]]
    assert Image.open(io.BytesIO(data)).size == (64, 64)
