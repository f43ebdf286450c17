"""Data sets on disk: other tools read what the builder writes, a killed build resumes, damage is found and named."""

import hashlib
import io
import json
import os
import shutil
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
from dist_plm.errors import UserError
from shards import assembly, build, verify

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


@pytest.mark.parametrize("state", ["complete", "partial", "foreign", "file"])
def test_another_data_set_is_refused_and_untouched(images, tmp_path, capsys, state):
    out = tmp_path / "out"
    if state == "complete":
        make(images, out)
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


def test_two_builds_do_not_write_at_once(images, tmp_path):
    source = build.KINDS["folder"](images)
    with (
        assembly._building(source, tmp_path / "out", 4000),
        pytest.raises(UserError, match="another build"),
        assembly._building(source, tmp_path / "out", 4000),
    ):
        pass


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
        save(root / "images" / name / "x.png", Image.new("RGB", (4, 4), (number, 0, 0)))
    (root / "classes.txt").write_text("1 001.A\n101 101.B\n")
    (root / "images.txt").write_text("1 001.A/x.png\n2 101.B/x.png\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 101\n")
    assert run("cub200", "--source", tmp_path, "--out", tmp_path / "out", "--workers", 1) == 0
    assert "warning: train has 1 samples, the official cub200 5,864" in capsys.readouterr().out


def damage(out: Path, name: str, position: int) -> None:
    data = bytearray((out / name).read_bytes())
    data[position] ^= 0x20
    (out / name).write_bytes(bytes(data))


def test_any_flipped_byte_of_a_shard_is_found_and_named(images, tmp_path, capsys):
    out = tmp_path / "out"
    shard = make(images, out).splits["train"].shards[1]
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


def test_verify_names_what_does_not_fit(images, tmp_path, capsys):
    make(images, tmp_path / "whole")
    capsys.readouterr()

    def report(change) -> str:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", out)
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
    assert verify.main([str(tmp_path / "whole"), "--workers", "2"]) == 0
    assert verify.main([str(tmp_path)]) == 2
    with pytest.raises(SystemExit, match="2"):
        verify.main(["--nonsense"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "splits": {"train": 3}}'])
def test_a_broken_manifest_is_a_user_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_a_manifest_names_no_file_outside_its_folder(images, tmp_path):
    make(images, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(path.read_text().replace("train-000000.tar", "../train-000000.tar"))
    with pytest.raises(UserError, match="not the name of a file"):
        Manifest.load(tmp_path / "out")


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
