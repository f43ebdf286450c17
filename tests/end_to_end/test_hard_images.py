"""A folder as people have it: most of its files are images, some of odd kinds, some no longer images at all."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_plm import evaluate as evaluation
from dist_plm import train as training
from dist_plm.datasets import build as building
from dist_plm.datasets import verify as verifying
from tests.end_to_end.conftest import events

GOOD_PER_CLASS, CLASSES = 10, ("bolts", "nuts")


def noise(number: int, width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """train/ and test/, each with 2 x 10 good images, 6 odd ones and 5 files that hold none."""
    folder = tmp_path / "pile"
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(GOOD_PER_CLASS):
                noise(100 * label + number).save(folder / split / name / f"{number}.jpg")
        odd = folder / split / CLASSES[0]
        noise(1).convert("L").save(odd / "grey.png")
        noise(2).convert("CMYK").save(odd / "cmyk.jpg")
        noise(3, 1, 1).save(odd / "one pixel.png")
        noise(4, 300, 2).save(odd / "strip.png")
        noise(5).convert("RGBA").save(odd / "no suffix", "PNG")
        rotated = Image.Exif()
        rotated[0x0112] = 6
        noise(6).save(odd / "rotated.jpg", exif=rotated)
        bad = folder / split / CLASSES[1]
        (bad / "cut.jpg").write_bytes((bad / "0.jpg").read_bytes()[:400])
        (bad / "empty.jpg").write_bytes(b"")
        (bad / "notes.txt").write_text("bought in 1987")
        (bad / "page.jpg").write_text("<html>404</html>")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(bad / "0.jpg")
        (bad / "cut.tar").write_bytes(packed.getvalue()[:700])
    return folder


def test_it_is_built_verified_trained_on_and_evaluated(tmp_path, pile, tiny, here):
    data, run = tmp_path / "data", tmp_path / "run"
    built = here(building.main, "folder", "--source", pile, "--out", data, "--workers", 1)
    assert built.status == 0 and "rejected 10 " in built.out, built
    manifest = json.loads((data / "manifest.json").read_text())
    assert {name: split["samples"] for name, split in manifest["splits"].items()} == {"train": 26, "test": 26}
    rejected = [json.loads(line) for line in (data / "rejected.jsonl").read_text().splitlines()]
    names = ("cut.jpg", "cut.tar", "empty.jpg", "notes.txt", "page.jpg")
    wanted = [f"{split}/{CLASSES[1]}/{name}" for split in ("test", "train") for name in names]
    assert sorted(entry["source"] for entry in rejected) == wanted and all(entry["reason"] for entry in rejected)

    verified = here(verifying.main, data, "--workers", 1)
    assert verified.status == 0 and "is intact: 52 samples" in verified.out, verified

    arguments = ("--config", tiny, "--data.shards", data, "--run_dir", run, "--train.max_steps", 2)
    trained = here(training.main, *arguments)
    assert trained.status == 0, trained.err
    assert [event["step"] for event in events(run, "step")] == [1, 2]
    assert all(np.isfinite(event["loss"]) for event in events(run, "step"))

    evaluated = here(evaluation.main, "--checkpoint", run)
    assert evaluated.status == 0, evaluated.err
    assert [json.loads(line)["recall"] for line in evaluated.out.splitlines()] == [
        event["recall"] for event in events(run, "eval")[-2:]
    ]
