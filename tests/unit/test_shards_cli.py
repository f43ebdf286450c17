"""The command line of the builder: a mistake is one line and status 2, and nothing is touched."""

import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_plm.datasets import build

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> int:
    return build.main([str(a) for a in arguments])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, *arguments: object) -> str:
    """The one line that the command answers with."""
    capsys.readouterr()
    assert run(*arguments, "--workers", 1) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


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
    assert status == 2 and error.startswith(("error: ", "dist-plm shards build")) and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_readable_is_an_error(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert run("folder", "--source", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1) == 2
    assert "no image of the split 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["photos", "photos/shards", "photos/a/shards", "photos/../photos/x", "link/shards"])
def test_an_output_in_its_own_source_is_refused(tmp_path, capsys, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("photos")
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a" / "x.png")
    before = sorted(tmp_path.rglob("*"))
    assert f"--out {Path(out)} lies in --source photos" in refused(capsys, "folder", "--source", "photos", "--out", out)
    assert sorted(tmp_path.rglob("*")) == before
    assert run("folder", "--source", "photos", "--out", "photos.shards", "--workers", 1) == 0


@pytest.mark.parametrize("out", ["file/x", "file/deep/x", "n" * 300])
def test_an_output_that_can_not_be_made_is_named(tmp_path, capsys, out):
    (tmp_path / "file").write_text("here")
    assert f"--out {tmp_path / out} can't be written" in refused(capsys, "demo", "--images", 4, "--out", tmp_path / out)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_system_without_processes_is_not_the_fault_of_the_output(tmp_path, capsys, monkeypatch):
    def refuse(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    line = ("demo", "--images", 60, "--classes", 4, "--out", tmp_path / "out", "--workers", 2)
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.process.BaseProcess.start", refuse)
        assert run(*line) == 2
    assert "error: the system stopped the build" in capsys.readouterr().err
    assert run(*line) == 0


def test_an_image_that_does_not_fit_into_memory_is_not_left_out(tmp_path, capsys, monkeypatch):
    def no_room(*_: object) -> None:
        raise MemoryError

    line = ("demo", "--images", 60, "--classes", 4, "--out", tmp_path / "out", "--workers", 1)
    for place in ("data.decode.to_rgb", "datasets.demo.GlyphEntry.read"):
        with monkeypatch.context() as patch:
            patch.setattr(f"dist_plm.{place}", no_room)
            assert run(*line) == 2
        assert "error: too little memory for glyph/000000000: lower --workers" in capsys.readouterr().err
    assert run(*line) == 0 and "rejected 0" in capsys.readouterr().out


def test_a_disk_that_fails_is_the_fault_of_the_output(tmp_path, capsys, monkeypatch):
    """A write to an open file fails without the file's name."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.fsync", refuse)
    line = ("demo", "--images", 60, "--classes", 4, "--out", tmp_path / "out")
    assert f"--out {tmp_path / 'out'} can't be written" in refused(capsys, *line)


@pytest.mark.parametrize("part", [(), ("--part", "1/2")])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tmp_path, capsys, part):
    """No file may be larger than 20 kB, which a shard is."""
    line = ("demo", "--images", 60, "--classes", 4, "--out", tmp_path / "out", *part)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        error = refused(capsys, *line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"--out {tmp_path / 'out'} is out of space (File too large): free space" in error
    assert run(*line, "--workers", 1) == 0


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    scan = os.scandir

    def denied(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    error = refused(capsys, "folder", "--source", tmp_path / "photos", "--out", tmp_path / "out")
    assert f"{tmp_path / 'photos' / 'a'} can't be read (Permission denied)" in error


def birds(root: Path) -> None:
    """A CUB-200-2011 of two images."""
    for number, name in ((1, "001.A"), (101, "101.B")):
        (root / "images" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / "images" / name / "x.png")
    (root / "classes.txt").write_text("1 001.A\n101 101.B\n")
    (root / "images.txt").write_text("1 001.A/x.png\n2 101.B/x.png\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 101\n")


@pytest.mark.parametrize("file", ["classes.txt", "images.txt", "image_class_labels.txt"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(Path.unlink, id="missing"),
        pytest.param(lambda path: path.write_bytes(b"1 001.\xc4\n"), id="latin-1"),
        pytest.param(lambda path: path.write_text("1\n"), id="short"),
        pytest.param(lambda path: os.truncate(path, 2**28 + 1), id="endless"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path, capsys, file, change: Callable[[Path], object]):
    birds(tmp_path / "cub")
    change(tmp_path / "cub" / file)
    assert file in refused(capsys, "cub200", "--source", tmp_path / "cub", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("file", "line"), [("classes.txt", "one 001.A"), ("image_class_labels.txt", "1 1.0")])
def test_a_number_that_is_none_is_shown(tmp_path, capsys, file, line):
    birds(tmp_path / "cub")
    (tmp_path / "cub" / file).write_text(f"{line}\n")
    error = refused(capsys, "cub200", "--source", tmp_path / "cub", "--out", tmp_path / "out")
    assert f"{tmp_path / 'cub' / file}: " in error and line in error and "is not an integer" in error


def test_a_part_of_an_official_data_set_is_built_with_a_warning(tmp_path, capsys):
    birds(tmp_path / "CUB_200_2011")
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
