"""What `export` writes computes what the run computes, in any program; a damaged export is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dist_plm import evaluate as evaluation
from dist_plm import export as exporting
from dist_plm.cli import load_config
from dist_plm.data.store import Store
from dist_plm.encoders import graphs
from dist_plm.encoders.exported import read_export
from dist_plm.errors import RunFailure, UserError
from dist_plm.files.reading import file_digest
from dist_plm.model import Encoder
from tests.end_to_end.conftest import STEPS, contents, events, refused, tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """The teacher of `finished` in all formats."""
    out = tmp_path_factory.mktemp("exported") / "out"
    arguments = ["--checkpoint", str(finished), "--model", "teacher", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["export", *arguments, "--format", "onnx", "torch_export"])
        assert exporting.main() == 0
    return out


@pytest.fixture
def copy(tmp_path: Path, exported: Path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def views(demo: Path, count: int) -> torch.Tensor:
    """Test images resized and cropped by torchvision's plain functions, without the project's views."""
    with Store(demo, "test") as store:
        images = [store.read_image(id) for id in range(count)]
    cropped = [image.resize((20, 20), Image.Resampling.BILINEAR).crop((2, 2, 18, 18)) for image in images]
    return torch.from_numpy(np.stack([np.array(image).transpose(2, 0, 1) for image in cropped]))


def original(finished: Path, batch: torch.Tensor) -> np.ndarray:
    """By the tensors of the checkpoint, put into a network by hand."""
    state = {k.removeprefix("teacher."): v for k, v in tensors(finished).items() if k.startswith("teacher.")}
    network = Encoder(load_config(finished / "config.yaml").model)
    network.load_state_dict(state)
    with torch.inference_mode():
        return network.eval()(batch).numpy()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_format_computes_what_the_checkpoint_does(exported, finished, demo, count):
    batch = views(demo, count)
    expected = original(finished, batch)
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    graph = torch.export.load(exported / "model.pt2").module()
    found = {
        "onnx": session.run(None, {"images": batch.numpy()})[0],
        "torch_export": graph(batch).detach().numpy(),
        "safetensors": read_export(exported, CPU).embed(batch).numpy(),
    }
    for name, embeddings in found.items():
        assert embeddings.shape == (count, 16), name
        assert np.abs(embeddings - expected).max() < 2e-6, name


def test_the_description_says_what_another_program_needs(exported, finished):
    told = json.loads((exported / "model.json").read_text())
    assert told["architecture"]["backbone"] == "small" and told["architecture"]["dim"] == 16
    assert (told["preprocessing"]["resize"], told["preprocessing"]["size"]) == (20, 16)
    assert told["inside_the_network"] == {"colours": "RGB", "mean": [127.5], "std": [63.75]}
    assert (told["source"]["model"], told["source"]["step"]) == ("teacher", STEPS)
    assert told["checks"]["images"] == 32
    assert told["checks"]["max_difference"].keys() == {"model.safetensors", "model.onnx", "model.pt2"}
    assert told["checks"]["max_difference"]["model.safetensors"] == 0
    assert told["files"].keys() == {path.name for path in exported.iterdir()} - {"model.json"}
    assert not list(exported.parent.glob(".*"))


def test_evaluate_gives_the_same_for_the_export(copy, finished, demo, here):
    outcome = here(evaluation.main, "--checkpoint", copy, "--shards", demo)
    assert outcome.status == 0, outcome.err
    (found,) = [json.loads(line) for line in outcome.out.splitlines()]
    expected = events(finished, "eval")[-1]
    assert {key: found[key] for key in ("model", "step", "epoch", "recall", "nmi")} == {
        key: expected[key] for key in ("model", "step", "epoch", "recall", "nmi")
    }
    assert json.loads((copy / "evaluation.jsonl").read_text()) == found


def test_a_graph_that_computes_otherwise_is_refused(tmp_path, finished, monkeypatch):
    def shifted(folder, embedder):
        return "model.pt2", lambda batch: embedder.network(batch) + 1e-4

    monkeypatch.setitem(graphs.WRITERS, "torch_export", shifted)
    arguments = ["--checkpoint", str(finished), "--out", str(tmp_path / "out"), "--format", "torch_export"]
    monkeypatch.setattr("sys.argv", ["export", *arguments])
    with pytest.raises(RunFailure, match=r"model\.pt2 gives other embeddings"):
        exporting.main()
    assert contents(tmp_path) == {}


def change(path: Path, **changes) -> None:
    document = json.loads((path / "model.json").read_text())
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    (path / "model.json").write_text(json.dumps(document))


def test_a_damaged_export_is_refused(copy):
    weights, description = copy / "model.safetensors", (copy / "model.json").read_text()
    intact = weights.read_bytes()

    def read(match: str) -> None:
        with pytest.raises(UserError, match=match):
            read_export(copy, CPU)
        weights.write_bytes(intact)
        (copy / "model.json").write_text(description)

    flipped = bytearray(intact)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    read("sha256 differs")
    weights.unlink()
    read("is missing")
    change(copy, architecture={"dim": 17})
    read("embeds in dimension 16, model.json says 17")
    change(copy, architecture={"backbone": "resnet18"})
    read("not an export of this version")
    change(copy, architecture={"layers": 3})
    read("is damaged")
    change(copy, format=2)
    read("is of format 2")
    (copy / "model.json").write_text("{")
    read("not a description")
    state = load_file(weights)
    save_file({**state, "extra": torch.zeros(2)}, weights)
    change(copy, files={"model.safetensors": file_digest(weights)})
    read("1 unknown: extra")


def test_wrong_uses(tmp_path, finished, exported, here, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    before = contents(tmp_path)
    for named, arguments in {
        "--checkpoint": (),
        "neither a run directory": ("--checkpoint", tmp_path / "full"),
        "exists: remove it": ("--checkpoint", finished, "--out", tmp_path / "full"),
        "--model": ("--checkpoint", finished, "--model", "both"),
        "--format": ("--checkpoint", finished, "--format", "pickle"),
        "has no student": ("--checkpoint", exported, "--model", "student", "--out", tmp_path / "out"),
        "with --shards": ("--checkpoint", exported, "--out", tmp_path / "out"),
        "manifest.json is missing": ("--checkpoint", finished, "--shards", tmp_path, "--out", tmp_path / "out"),
    }.items():
        refused(here(exporting.main, *arguments), named)
        assert contents(tmp_path) == before, named
    refused(here(evaluation.main, "--checkpoint", exported), "with --shards")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(here(exporting.main, "--checkpoint", finished, "--out", tmp_path / "o", "--format", "onnx"), "[export]")
