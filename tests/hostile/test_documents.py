"""Configurations, exports and tars of strangers: refused in a line, before they cost time or memory."""

import io
import json
import struct
import tarfile
from pathlib import Path

import pytest
import torch

from dist_plm import train as training
from dist_plm.cli import load_config
from dist_plm.data.format import Manifest
from dist_plm.data.shard_files import Shard
from dist_plm.data.tar import images
from dist_plm.datasets.tree import Tree
from dist_plm.encoders.exported import read_export
from dist_plm.errors import UserError
from dist_plm.files.names import printable
from dist_plm.files.reading import file_digest
from dist_plm.model.weights import read_file
from dist_plm.slurm.cluster import _read
from tests.end_to_end.conftest import refused
from tests.hostile.limits import limited
from tests.untrained import export_to, untrained

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "bomb": (BOMB, "aliases"),
    "one alias": ("data: &x {workers: 1}\nviews: *x\n", "aliases"),
    "circle": ("data: &x [*x]\n", "aliases"),
    "merge": ("data: &x {workers: 1}\nviews: {<<: *x}\n", "aliases"),
    "deep": ("[" * 20_000, "nested too deeply"),
    "large": ("# " + "x" * 300_000, "larger than 262,144 bytes"),
    "tag": ("run_dir: !!python/object/apply:os.system ['touch p']\n", "could not determine a constructor"),
    "dim": ("model: {dim: 2000000000}\n", "model.dim is 2000000000: it must be 65536 at most"),
    "wide": ("model: {wide_dim: 2000000000}\n", "model.wide_dim is 2000000000"),
    "size": ("views: {size: 100000, resize: 100000}\n", "views.size is 100000"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_configuration_of_a_run_from_elsewhere(tmp_path, monkeypatch, name):
    text, expected = TEXTS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    found = limited(load_config, tmp_path / "config.yaml", seconds=10, megabytes=300)
    assert found.error.startswith("UserError") and expected in found.error, found
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", ["bomb", "one alias", "merge"])
def test_the_same_on_the_command_line_and_for_a_cluster(tmp_path, here, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(TEXTS[name][0])
    refused(here(training.main, "--config", path), "aliases")
    with pytest.raises(UserError, match=r"can't be read: .*aliases"):
        _read(path)


@pytest.fixture
def export(tmp_path) -> Path:
    """An export of a small network with random weights."""
    return export_to(tmp_path / "export", untrained())


def change(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "model.json").read_text())
    for key, value in changes.items():
        document[key] = document[key] | value if isinstance(value, dict) else value
    document["files"]["model.safetensors"] = file_digest(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(document))


def tensors(folder: Path, header: bytes, data: bytes = b"") -> None:
    """model.safetensors with this header."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    change(folder)


def loaded(folder: Path) -> str:
    return str(read_export(folder, torch.device("cpu")))


EXPORTS = {
    "dim": lambda folder: change(folder, architecture={"dim": 2 * 10**9}),
    "dim 0": lambda folder: change(folder, architecture={"dim": 0}),
    "a text": lambda folder: change(folder, architecture={"dim": "8"}),
    "a list": lambda folder: change(folder, architecture={"backbone": ["small"]}),
    "weights": lambda folder: change(folder, architecture={"weights": "/etc/passwd"}),
    "another key": lambda folder: change(folder, architecture={"loader": "os"}),
    "no position": lambda folder: change(folder, source={"step": None}),
    "path": lambda folder: change(folder, source={"model": "../../x"}),
    "crop": lambda folder: change(folder, preprocessing={"size": 10**9, "resize": 10**9}),
    "crop 0": lambda folder: change(folder, preprocessing={"size": 0}),
    "infinite": lambda folder: change(folder, preprocessing={"size": float("inf")}),
    "precision": lambda folder: change(folder, precision=["fp32"]),
    "a list of all": lambda folder: (folder / "model.json").write_text("[]"),
    "deep": lambda folder: (folder / "model.json").write_bytes(b"[" * 10**6),
    "digits": lambda folder: (folder / "model.json").write_bytes(b'{"format": ' + b"1" * 10**4 + b"}"),
    "files": lambda folder: change(folder, files=7),
    "short": lambda folder: ((folder / "model.safetensors").write_bytes(b"x"), change(folder)),
    "length": lambda folder: ((folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"), change(folder)),
    "nested": lambda folder: tensors(folder, b'{"a":' * 50_000),
    "no shape": lambda folder: tensors(folder, b'{"head.weight":{"dtype":"F32"}}'),
    "type": lambda folder: tensors(folder, b'{"head.weight":{"dtype":"F8_E8M0","shape":[8,0],"data_offsets":[0,0]}}'),
    "nothing": lambda folder: tensors(folder, b'{"head.weight":{"dtype":"F32","shape":[8,0],"data_offsets":[0,0]}}'),
    "flat": lambda folder: tensors(
        folder, b'{"head.weight":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}', bytes(32)
    ),
}


def spoil_files(folder: Path) -> None:
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(document | {"files": 7}))


EXPORTS["files"] = spoil_files


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_from_elsewhere(export, name):
    EXPORTS[name](export)
    found = limited(loaded, export, seconds=10, megabytes=600)
    if name == "weights":  # of an export they are its own
        assert found.error or "student" in found.value
    else:
        assert found.error.startswith("UserError"), found
        assert len(found.error.splitlines()) <= 3 and len(found.error) <= 500


def test_a_wide_head_is_compared_before_it_is_drawn(export):
    """65,536 rows of one column: as large as a head may be, in a file of 256 KB."""
    change(export, architecture={"dim": 2**16})
    tensors(export, b'{"head.weight":{"dtype":"F32","shape":[65536,1],"data_offsets":[0,262144]}}', bytes(2**18))
    found = limited(loaded, export, seconds=5, megabytes=600)
    assert found.error.startswith("UserError") and found.seconds < 4 and found.megabytes < 60, found


def test_no_escape_sequence_is_printed(export, here):
    change(export, source={"run": "\x1b]0;title\x07\x1b[2J\u202eabc"})
    shown = loaded(export)
    assert shown.isprintable() and "\\x1b[2J" in shown
    assert printable("plain é 日本 \U0001f600\n") == "plain é 日本 \U0001f600\n"
    outcome = here(lambda: (_ for _ in ()).throw(UserError("x\x1b[31my")))
    assert outcome.status == 2 and "\x1b" not in outcome.err and "x\\x1b[31my" in outcome.err


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".caffemodel", ".pt"])
def test_weights_that_are_none(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    for text in (
        b"",
        b"\x80",
        b"PK\x03\x04" + bytes(100),
        bytes(1_000),
        b"\xff" * 1_000,
        b'\x10\0\0\0\0\0\0\0{"a":{"dtype":1}}',
    ):
        path.write_bytes(text)
        with pytest.raises(UserError, match=r"model\.weights"):
            read_file(path)


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_a_tar_are_small(tmp_path, kind):
    """Before Python 3.11.10 the search of a header takes the square of its digits."""
    path = tmp_path / "x.tar"
    path.write_bytes(member("x", b"1" * 200_000, kind) + member("a.jpg", b"x") + bytes(1024))
    for call in (indexed, streamed):
        found = limited(call, path, seconds=3, megabytes=200)
        assert found.error.startswith("UserError") and "tar" in found.error, found


def indexed(path: Path) -> list[str]:
    return [found.path for found in Tree(path).walk()]


def streamed(path: Path) -> int:
    return len(list(images(Shard(path, 0, 1, path.stat().st_size))))


def test_names_of_usual_length_are_read(tmp_path):
    path, name = tmp_path / "x.tar", "folder/" * 500 + "x.jpg"
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(path, "w", format=kind) as tar:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        assert indexed(path) == [name]


@pytest.mark.parametrize("names", [("a/x.jpg", "a/x.jpg"), ("a/x.jpg", "./a/x.jpg"), ("a//x.jpg", "a/x.jpg")])
def test_two_members_of_one_name_are_refused(tmp_path, names):
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(member(name, data) for name, data in zip(names, (b"1", b"2"), strict=True)) + bytes(1024))
    with pytest.raises(UserError, match=r"holds two files called '.*a/+x\.jpg'"):
        Tree(path)


def test_a_manifest_of_a_gigabyte_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(10**9)
    found = limited(Manifest.load, tmp_path, seconds=5, megabytes=300)
    assert found.error.startswith("UserError") and "larger than" in found.error, found
