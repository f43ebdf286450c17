"""What never executed, escaped or exhausted anything, and must stay so."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_plm.checkpoint import checkpoint
from dist_plm.data import store
from dist_plm.data.decode import decode
from dist_plm.data.plan_file import load_plan
from dist_plm.errors import UserError
from dist_plm.files.reading import file_digest, map_array
from dist_plm.model.caffemodel import _network, read_caffemodel
from dist_plm.model.weights import read_file
from dist_plm.slurm import record
from dist_plm.telemetry import events
from tests.hostile.limits import limited
from tests.hostile.test_launcher import Made


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_weights_is_not_run(tmp_path, suffix, zipped):
    made, path = tmp_path / "made", tmp_path / f"w{suffix}"
    torch.save({"weight": torch.zeros(2), "x": Made(made)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="not a plain file of tensors"):
        read_file(path)
    assert not made.exists()


def test_a_pickle_in_an_array_is_not_run(tmp_path):
    made, path = tmp_path / "made", tmp_path / "x.npy"
    np.save(path, np.array([Made(made)]), allow_pickle=True)
    with pytest.raises(ValueError):
        map_array(path)
    with pytest.raises(UserError):
        store.table(path, store.LABEL_DTYPE, 1)
    with pytest.raises(UserError, match="can't be read"):
        load_plan(path, file_digest(path)["sha256"])
    assert not made.exists()


def test_metadata_of_a_checkpoint_is_not_unpickled(tmp_path):
    """torch.distributed.checkpoint keeps a pickle called .metadata in its own format; this one has none."""
    made, path = tmp_path / "made", tmp_path / "step_00000001"
    path.mkdir()
    (path / ".metadata").write_bytes(pickle.dumps(Made(made)))
    (path / "x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(UserError, match=r"lacks a|can't be read"):
        checkpoint.load(path, {"a": torch.zeros(2)})
    assert not made.exists()


@pytest.mark.parametrize(
    "header", [b"{" * 50_000, b"[]", b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,999]}}', b"\xff"]
)
def test_headers_of_a_checkpoint_are_told_in_a_line(tmp_path, header):
    path = tmp_path / "step_00000001"
    path.mkdir()
    (path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError) as refusal:
        checkpoint.load(path, {"a": torch.zeros(2)})
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("dims", [[2**40], [2**31, 2**31], [-1], [0], [5, 10**9]])
def test_sizes_of_a_caffemodel_that_lie(tmp_path, dims):
    network = _network()()
    layer = network.layer.add(name="x")
    blob = layer.blobs.add()
    blob.data.extend([1.0] * 10)
    blob.shape.dim.extend(dims)
    path = tmp_path / "x.caffemodel"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(ValueError, match=r"x\.weight has 10 numbers"):
        read_caffemodel(path)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(p) (w) file\nshowpage\n"
OTHERS = [
    POSTSCRIPT,
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"8BPS\0\x01" + bytes(40),
    bytes(4) + b"\x11\xaf" + bytes(200),
    b"\xd7\xcd\xc6\x9a" + bytes(100),
    b"%PDF-1.7\n",
    b"\x1f\x8b" + bytes(20),
]


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_formats_that_start_programs_are_none(tmp_path, monkeypatch, number):
    """Pillow would start Ghostscript for the first of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ValueError):
        decode(OTHERS[number])
    assert list(tmp_path.iterdir()) == []


def test_bombs_in_what_goes_with_an_image():
    """A profile and texts that unpack to gigabytes."""
    image, buffer = Image.new("RGB", (4, 4)), io.BytesIO()
    image.save(buffer, "PNG", icc_profile=bytes(20_000_000), exif=b"Exif\0\0" + bytes(1_000))
    found = limited(_size, buffer.getvalue(), seconds=10, megabytes=400)
    assert not found.value or found.value == (4, 4), found
    assert "died" not in found.error and "MemoryError" not in found.error, found


def _size(data: bytes) -> tuple[int, int]:
    return decode(data).size


@pytest.mark.parametrize("line", [b"[" * 100_000, b"7", b"null", b'{"event": 7}', b"\xff", b"{}"])
def test_events_of_a_run_from_elsewhere(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b'\n{"event": "end"}\n')
    assert events.read(tmp_path, "end") == [{"event": "end"}]


@pytest.mark.parametrize("job", ["../../x", "--help", "1; touch p", 7, None])
def test_a_job_of_a_run_from_elsewhere(tmp_path, job):
    (tmp_path / "launch").mkdir()
    document = {"job": job, "where": "slurm", "folder": "/", "commit": "", "line": [], "submitted": ""}
    (tmp_path / "launch" / "job.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="is not a record of a job"):
        record.load(tmp_path)


def test_a_hostile_backbone_of_an_export_is_not_imported(tmp_path):
    """Neither is a module that lies where the command is started."""
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('made').touch()\ndef make(): pass\n")
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from dist_plm.config import ModelConfig\nfrom dist_plm.model.encoder import Encoder\n"
        "try: Encoder(ModelConfig(backbone='evil:make'))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "UserError", done
    assert not (tmp_path / "made").exists()
