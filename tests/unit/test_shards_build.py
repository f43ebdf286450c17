"""Data sets on disk: other tools read what the builder writes, and a killed build resumes to the same bytes."""

import hashlib
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from dist_plm.data.decode import decode
from dist_plm.data.format import OFFSET_DTYPE, Manifest
from dist_plm.datasets import assembly, build, verify
from dist_plm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def save(path: Path, image: Image.Image, **options) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.read_bytes()


@pytest.fixture
def images(tmp_path) -> Path:
    """40 images of 4 kinds in two classes and none."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    for i in range(40):
        kind = ("a/{}.jpg", "b/{}.png", "b/deep/{}.jpg", "{}.png")[i % 4].format(i)
        save(root / kind, Image.fromarray(rng.integers(0, 255, (9 + i, 12, 3), np.uint8)))
    return root


def run(*arguments: object) -> int:
    return build.main([str(a) for a in arguments])


def make(images: Path, out: Path, shard_size: float = 0.004, workers: int = 1) -> Manifest:
    assert run("folder", "--source", images, "--out", out, "--shard-size", shard_size, "--workers", workers) == 0
    return Manifest.load(out)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_tables_describe_the_tars_as_tarfile_sees_them(images, tmp_path):
    manifest = make(images, tmp_path / "out")
    split = manifest.splits["train"]
    offsets, labels = (np.load(tmp_path / "out" / f"train.{table}.npy") for table in ("offsets", "labels"))
    assert offsets.dtype == OFFSET_DTYPE and offsets.dtype.itemsize == 16 and labels.dtype == np.int32
    assert len(split.shards) > 3 and split.samples == len(offsets) == len(labels) == 40
    fingerprint, row, seen = hashlib.sha256(), 0, set()
    for number, shard in enumerate(split.shards):
        assert (tmp_path / "out" / shard.file).stat().st_size == shard.bytes
        with tarfile.open(tmp_path / "out" / shard.file) as tar:
            members = tar.getmembers()
            assert len(members) == 2 * shard.samples
            for image, described in zip(members[::2], members[1::2], strict=True):
                key, suffix = image.name.split(".")
                assert described.name == f"{key}.json"
                assert tuple(offsets[row]) == (number, image.offset_data, image.size)
                data = tar.extractfile(image).read()
                document = json.loads(tar.extractfile(described).read())
                source = images / document["source"]
                assert data == source.read_bytes() and source.suffix == f".{suffix}"
                name = source.relative_to(images).parts[0] if source.parent != images else None
                assert (document["class"], document["split"]) == (name, "train")
                assert document["label"] == {"a": 0, "b": 1, None: None}[name]
                assert labels[row] == {"a": 0, "b": 1, None: -1}[name]
                fingerprint.update(f"train/{key} {hashlib.sha256(data).hexdigest()} {labels[row]}\n".encode())
                seen.add(document["source"])
                row += 1
    assert len(seen) == 40 and manifest.fingerprint == fingerprint.hexdigest()
    assert (split.classes, split.labelled, manifest.rejected) == (["a", "b"], True, 0)
    assert not (tmp_path / "out" / ".build").exists()


def test_webdataset_reads_the_shards(images, tmp_path):
    manifest = make(images, tmp_path / "out")
    urls = [str(tmp_path / "out" / shard.file) for shard in manifest.splits["train"].shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode("pil"))
    labels = np.load(tmp_path / "out" / "train.labels.npy")
    assert [-1 if s["json"]["label"] is None else s["json"]["label"] for s in samples] == labels.tolist()
    assert all(s.get("jpg", s.get("png")).size[0] == 12 for s in samples)


def test_what_cannot_be_decoded_is_rejected_with_its_reason(tmp_path):
    root = tmp_path / "images"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    good = {
        "grey.jpg": save(root / "grey.jpg", noise.convert("L")),
        "cmyk.jpg": save(root / "cmyk.jpg", noise.convert("CMYK")),
        "rotated.jpg": save(root / "rotated.jpg", noise.crop((0, 0, 64, 32)), exif=exif),
        "one.png": save(root / "one.png", Image.new("RGB", (1, 1))),
        "deep.png": save(root / "deep.png", Image.fromarray(np.full((4, 4), 40_000, np.uint16))),
        "palette.png": save(root / "palette.png", noise.convert("P"), transparency=3),
        "wrongly_named.png": save(root / "wrongly_named.png", noise, format="JPEG"),
    }
    (root / "notes.txt").write_text("no image")
    (root / "empty.jpg").write_bytes(b"")
    (root / "truncated.jpg").write_bytes(good["grey.jpg"][:900])
    (root / "nowhere.jpg").symlink_to(root / "gone")
    manifest = make(root, tmp_path / "out", shard_size=1)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = {row["source"]: row["reason"] for row in rejected}
    assert set(reasons) == {"notes.txt", "empty.jpg", "truncated.jpg", "nowhere.jpg"} and manifest.rejected == 4
    assert "not an image" in reasons["notes.txt"] and "truncated" in reasons["truncated.jpg"]
    assert "empty" in reasons["empty.jpg"] and "missing" in reasons["nowhere.jpg"]
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        found = {m.name.split("-")[0]: (m.name, tar.extractfile(m).read()) for m in tar if not m.name.endswith("json")}
    assert {name: data for name, (_, data) in found.items()} == {k.split(".")[0]: v for k, v in good.items()}
    assert found["wrongly_named"][0].endswith(".jpg")
    assert all(decode(data).mode == "RGB" for _, data in found.values())
    assert verify.main([str(tmp_path / "out"), "--workers", "1"]) == 0


def test_a_shard_of_rejects_leaves_no_gap_in_the_table(images, tmp_path):
    (images / "a/0_bad.jpg").write_bytes(b"x" * 5000)
    (images / "a/1_bad.jpg").write_bytes(b"x" * 5000)
    manifest = make(images, tmp_path / "out")
    offsets = np.load(tmp_path / "out" / "train.offsets.npy")
    shards = manifest.splits["train"].shards
    assert manifest.rejected == 2 and all(shard.samples for shard in shards)
    told = build.summary(manifest, build.KINDS["folder"](images), tmp_path / "out")
    assert f"rejected.jsonl; to read them again, remove {tmp_path / 'out'} and rebuild)" in told
    assert np.bincount(offsets["shard"]).tolist() == [shard.samples for shard in shards]
    assert {shard.file for shard in shards} == {path.name for path in (tmp_path / "out").glob("*.tar")}
    assert verify.main([str(tmp_path / "out"), "--workers", "1"]) == 0


def test_the_result_does_not_depend_on_workers_and_the_fingerprint_not_on_the_cut(images, tmp_path):
    one = make(images, tmp_path / "one")
    make(images, tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    whole = make(images, tmp_path / "whole", shard_size=10)
    assert len(whole.splits["train"].shards) == 1 and whole.fingerprint == one.fingerprint
    (images / "a/0.jpg").rename(images / "b/0.jpg")
    assert make(images, tmp_path / "moved").fingerprint != one.fingerprint


def test_an_interrupted_build_goes_on_with_the_shards_it_has(images, tmp_path, monkeypatch):
    make(images, tmp_path / "whole")
    out, written = tmp_path / "out", []
    finish = assembly.finish_shard

    def stopping(task):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(finish(task))
        return written[-1]

    monkeypatch.setattr(assembly, "finish_shard", stopping)
    command = ("folder", "--source", images, "--out", out, "--shard-size", 0.004, "--workers", 1)
    assert run(*command) == 1 and not (out / "manifest.json").exists()
    monkeypatch.setattr(assembly, "finish_shard", finish)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (out / ".train-000007.tar.tmp").write_bytes(b"half a shard")
    assert len(before) == 3 and run(*command) == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert content(out) == content(tmp_path / "whole")


def test_a_source_that_changed_is_read_again_from_there(images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    bind = assembly._bind
    monkeypatch.setattr(assembly, "_bind", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    command = ("folder", "--source", images, "--out", out, "--shard-size", 0.004, "--workers", 1)
    assert run(*command) == 1
    monkeypatch.setattr(assembly, "_bind", bind)
    for path in sorted(images.glob("b/*.png"))[:8]:
        path.unlink()
    assert run(*command) == 0
    make(images, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path):
    command = [sys.executable, "shards/build.py", "demo", "--images", "1200", "--size", "32", "--workers", "2"]
    command += ["--shard-size", "0.02"]
    out = tmp_path / "out"
    process = subprocess.Popen([*command, "--out", out], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("train-*.tar"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "manifest.json").exists()
    for folder in (out, tmp_path / "whole"):
        subprocess.run([*command, "--out", folder], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert content(out) == content(tmp_path / "whole")
    assert sum(info.samples for info in Manifest.load(out).splits.values()) == 1200


def test_a_complete_data_set_is_left_alone(images, tmp_path):
    out = tmp_path / "out"
    make(images, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    make(images, out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_two_builds_do_not_write_at_once(images, tmp_path):
    source = build.KINDS["folder"](images)
    with (
        assembly._building(source, tmp_path / "out", 4000),
        pytest.raises(UserError, match="another build"),
        assembly._building(source, tmp_path / "out", 4000),
    ):
        pass


def test_parts_in_any_order_and_then_the_whole_are_the_whole(images, tmp_path):
    make(images, tmp_path / "whole")
    line = ("folder", "--source", images, "--out", tmp_path / "out", "--shard-size", 0.004, "--workers", 1)
    for part in ("2/3", "3/3", "1/3"):
        assert run(*line, "--part", part) == 0
        assert not (tmp_path / "out" / "manifest.json").exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert run(*line) == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    with pytest.raises(SystemExit):
        run(*line, "--part", "4/3")
