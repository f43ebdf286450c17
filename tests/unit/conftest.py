"""A tiny data set, written with the standard library alone, so that no test of a reader trusts the project's writer."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TinySplit = Callable[..., list[bytes]]


def encoded(number: int, width: int, height: int, kind: str) -> bytes:
    """A file of noise, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if kind == "jpg" else "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tiny_split(tmp_path: Path) -> TinySplit:
    """write(shard_sizes, split="train", ...) -> the image bytes of the split in order; the folder is tmp_path."""

    def write(
        shard_sizes: Sequence[int],
        split: str = "train",
        *,
        kind: str = "jpg",
        size: tuple[int, int] = (40, 30),
        replace: dict[int, bytes] | None = None,
    ) -> list[bytes]:
        images, rows, shards = [], [], []
        for shard, samples in enumerate(shard_sizes):
            path = tmp_path / f"{split}-{shard:06d}.tar"
            with tarfile.open(path, "w") as tar:
                for _ in range(samples):
                    number = len(images)
                    data = (replace or {}).get(number, encoded(number, size[0] + number % 7, size[1], kind))
                    images.append(data)
                    add(tar, f"{number:08d}.{kind}", data)
                    label = {"label": number % 3, "class": f"class{number % 3}", "split": split, "source": "noise"}
                    add(tar, f"{number:08d}.json", json.dumps(label).encode())
            with tarfile.open(path) as tar:
                members = [member for member in tar if not member.name.endswith(".json")]
            rows += [(shard, member.offset_data, member.size) for member in members]
            shards.append({"file": path.name, "samples": samples, "bytes": path.stat().st_size})
        packed = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("size", "<u4")])
        np.save(tmp_path / f"{split}.offsets.npy", np.array(rows, packed))
        np.save(tmp_path / f"{split}.labels.npy", np.arange(len(images), dtype="<i4") % 3)
        manifest_path = tmp_path / "manifest.json"
        manifest = (
            json.loads(manifest_path.read_text())
            if manifest_path.exists()
            else {
                "format": 1,
                "name": "tiny",
                "fingerprint": "0" * 64,
                "splits": {},
                "rejected": 0,
            }
        )
        manifest["splits"][split] = {
            "samples": len(images),
            "labelled": True,
            "classes": ["class0", "class1", "class2"],
            "shards": shards,
        }
        manifest_path.write_text(json.dumps(manifest))
        return images

    return write
