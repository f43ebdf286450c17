"""Damage to a data set is found to the byte, and named; a whole one passes."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dist_plm.data.format import Manifest
from dist_plm.datasets import build, verify
from dist_plm.errors import UserError


@pytest.fixture
def whole(tmp_path) -> Path:
    """A data set of 40 images in two splits of about four shards."""
    options = ["--images", "40", "--size", "16", "--classes", "4", "--shard-size", "0.0006", "--workers", "1"]
    assert build.main(["demo", "--out", str(tmp_path / "whole"), *options]) == 0
    return tmp_path / "whole"


def damage(out: Path, name: str, position: int) -> None:
    data = bytearray((out / name).read_bytes())
    data[position] ^= 0x20
    (out / name).write_bytes(bytes(data))


def test_any_flipped_byte_of_a_shard_is_found_and_named(whole, capsys):
    out, shard = whole, Manifest.load(whole).splits["train"].shards[1]
    capsys.readouterr()
    pristine = (out / shard.file).read_bytes()
    with tarfile.open(out / shard.file) as tar:
        members = [(m.name, m.offset, m.offset_data, m.size) for m in tar]
    # Everything from the fourth header on is drawn from, headers, contents, padding and the end alike.
    for position in np.random.default_rng(0).integers(0, len(pristine), 60).tolist():
        (out / shard.file).write_bytes(pristine)
        damage(out, shard.file, position)
        assert verify.main([str(out), "--workers", "1"]) == 1
        report = capsys.readouterr().out
        assert report.count("damaged:") == 1 and shard.file in report
        for name, start, data, size in members:
            if start <= position < data:
                assert f"byte {start:,}" in report
            elif data <= position < data + size:
                assert f"member {name.rpartition('.')[0]}" in report
            elif data + size <= position < data + size + -size % 512:
                assert f"member {name}, byte {position:,}" in report
        if position >= members[-1][2] + 512 * -(-members[-1][3] // 512):
            assert f"byte {position:,}" in report


def test_verify_names_what_does_not_fit(whole, tmp_path, capsys):
    capsys.readouterr()

    def report(change) -> str:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        change(out)
        assert verify.main([str(out), "--workers", "1"]) == 1
        return capsys.readouterr().out

    def relabel(out: Path) -> None:
        labels = np.load(out / "train.labels.npy")
        labels[3] = 1 - max(labels[3], 0)
        np.save(out / "train.labels.npy", labels)

    def move(out: Path) -> None:
        offsets = np.load(out / "train.offsets.npy")
        offsets["offset"][5] += 512
        np.save(out / "train.offsets.npy", offsets)

    def edit(out: Path) -> None:
        document = json.loads((out / "manifest.json").read_text())
        document["fingerprint"] = "0" * 64
        (out / "manifest.json").write_text(json.dumps(document))

    assert "label" in report(relabel)
    assert "offset table" in report(move)
    assert "fingerprint" in report(edit)
    assert "train-000001.tar: 700 bytes" in report(lambda out: os.truncate(out / "train-000001.tar", 700))
    assert "train-000000.tar: 0 bytes" in report(lambda out: (out / "train-000000.tar").unlink())
    assert "rejected.jsonl" in report(lambda out: (out / "rejected.jsonl").write_text("{}\n"))
    assert verify.main([str(whole), "--workers", "2"]) == 0
    assert verify.main([str(tmp_path)]) == 2
    with pytest.raises(SystemExit, match="2"):
        verify.main(["--nonsense"])


FINGERPRINT = 64 * "0"


def claiming(samples: str) -> str:
    shard = f'{{"file": "train-000000.tar", "samples": {samples}, "bytes": 10240}}'
    split = f'{{"samples": {samples}, "labelled": false, "classes": [], "shards": [{shard}]}}'
    return (
        f'{{"format": 1, "name": "x", "fingerprint": "{FINGERPRINT}", "rejected": 0, "splits": {{"train": {split}}}}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"format": 2}', '{"format": 1, "splits": {"train": 3}}'),
        *(claiming("1e999"), claiming("NaN"), claiming("-5"), claiming('"many"')),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_broken_manifest_is_a_user_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_a_manifest_that_claims_five_samples_is_read(tmp_path):
    (tmp_path / "manifest.json").write_text(claiming("5"))
    assert Manifest.load(tmp_path).splits["train"].samples == 5


@pytest.mark.parametrize("table", ["offsets", "labels", "checks"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x02\x00((", b"\x93NUMPY"])
def test_a_torn_table_is_named(whole, capsys, table, content):
    (whole / f"train.{table}.npy").write_bytes(content)
    capsys.readouterr()
    assert verify.main([str(whole), "--workers", "1"]) == 1
    report = capsys.readouterr().out
    assert report.count("damaged:") == 1 and f"train.{table}.npy cannot be read" in report


def test_a_torn_table_of_checks_that_the_manifest_does_not_know_is_named(whole, capsys):
    path = whole / "manifest.json"
    document = json.loads(path.read_text())
    for split in document["splits"].values():
        del split["tables"]
    path.write_text(json.dumps(document))
    capsys.readouterr()
    assert verify.main([str(whole), "--workers", "1"]) == 0
    (whole / "train.checks.npy").write_bytes(b"")
    assert verify.main([str(whole), "--workers", "1"]) == 1
    assert "train.checks.npy cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("size", [2**28 + 1, 2**33, 2**70, -1, -5])
def test_a_header_that_claims_the_impossible_is_named(whole, capsys, size):
    path = whole / "train-000000.tar"
    info = tarfile.TarInfo("x.jpg")
    info.size = size
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + path.read_bytes()[512:])
    capsys.readouterr()
    assert verify.main([str(whole), "--workers", "1"]) == 1
    assert f"member x.jpg, byte 0: the header says {size:,} bytes" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["5", "[" * 100_000], ids=["number", "deep"])
def test_a_description_that_is_none_is_named(whole, capsys, source):
    path = whole / "train-000000.tar"
    with tarfile.open(path) as tar:
        image = tar.next()
        data = tar.extractfile(image).read()
    described = f'{{"source": {source}, "sha256": "x"}}'.encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in ((image.name, data), (image.name.rpartition(".")[0] + ".json", described)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["bytes"] = path.stat().st_size
    (whole / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert verify.main([str(whole), "--workers", "1"]) == 1
    assert "not a description of label" in capsys.readouterr().out


def test_a_manifest_names_no_file_outside_its_folder(whole):
    path = whole / "manifest.json"
    path.write_text(path.read_text().replace("train-000000.tar", "../train-000000.tar"))
    with pytest.raises(UserError, match="is not a plain name"):
        Manifest.load(whole)


def test_a_folder_whose_name_is_no_text_is_printed_with_escapes(whole, capsys):
    odd = whole.rename(whole.with_name(os.fsdecode(b"whol\xe9")))
    assert verify.main([str(odd), "--workers", "1"]) == 0
    assert r"whol\udce9 is intact: 40 samples" in capsys.readouterr().out
