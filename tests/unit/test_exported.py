"""An export gives back the network that was put in, for every backbone; images are told as the tar tells them."""

import json
import tarfile

import pytest
import torch

from dist_plm.config import ModelConfig, ViewsConfig
from dist_plm.data.store import Store
from dist_plm.encoders.embedder import Embedder, ready
from dist_plm.encoders.exported import read_export, write_description, write_weights
from dist_plm.encoders.graphs import write_torch_export
from dist_plm.errors import UserError
from dist_plm.model import Encoder
from dist_plm.search_index.images import FolderImages, ShardImages, reopen

SOURCE = {"run": "r", "model": "student", "step": 3, "epochs": 1}
BACKBONES = {
    "bvlc_googlenet": ("frozen", "BGR", [104.0, 117.0, 123.0]),
    "resnet18": ("synchronised", "RGB", [123.675, 116.28, 103.53]),
    "squeezenet1_1": ("frozen", "RGB", [123.675, 116.28, 103.53]),
}


def embedder(backbone: str, batch_norm: str, precision: str = "fp32") -> Embedder:
    model = ModelConfig(backbone=backbone, dim=8, layer_norm=True, batch_norm=batch_norm)  # type: ignore[arg-type]
    network = Encoder(model, seed=5)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):  # statistics that are not those of a new network
            buffer.normal_(generator=torch.Generator().manual_seed(1))
    views = ViewsConfig(size=64, resize=72)
    return Embedder(ready(network, precision, torch.device("cpu")), model, views, precision, SOURCE)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_read_back_embeds_to_the_same_bits(tmp_path, backbone):
    batch_norm, colours, mean = BACKBONES[backbone]
    original = embedder(backbone, batch_norm)
    write_weights(tmp_path, original)
    write_description(tmp_path, original, {})
    copy = read_export(tmp_path, torch.device("cpu"))
    views = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy.embed(views), original.embed(views))
    assert (copy.views.size, copy.views.resize, copy.source) == (64, 72, SOURCE)
    told = json.loads((tmp_path / "model.json").read_text())["inside_the_network"]
    assert told["colours"] == colours and told["mean"] == pytest.approx(mean)


def test_the_graph_of_the_caffe_network_takes_any_batch(tmp_path):
    original = embedder("bvlc_googlenet", "frozen")
    _, run = write_torch_export(tmp_path, original)
    for count in (1, 2, 5):
        views = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8)
        assert (run(views) - original.embed(views)).abs().max() < 1e-6


def test_double_precision_stays(tmp_path):
    original = embedder("squeezenet1_1", "frozen", "fp64")
    write_weights(tmp_path, original)
    write_description(tmp_path, original, {})
    views = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    found = read_export(tmp_path, torch.device("cpu")).embed(views)
    assert found.dtype == torch.float64 and torch.equal(found, original.embed(views))


def test_what_a_store_says_of_an_image_stands_in_the_tar(tmp_path, tiny_split):
    tiny_split([3, 2])
    expected = []
    for path in sorted(tmp_path.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            expected += [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
    with Store(tmp_path, "train") as store:
        assert [store.about(id) for id in range(5)] == expected
        with pytest.raises(IndexError):
            store.about(5)


def test_images_are_found_again(tmp_path, tiny_split):
    pictures = tiny_split([3, 2])
    images = ShardImages(tmp_path, ["train"])
    again = reopen(images.place(), [images.about(4), images.about(1)])
    assert [again.read(row) for row in range(2)] == [pictures[4], pictures[1]]
    assert again.about(0) == {"name": "noise", "label": "class1", "id": 4}

    for name in ("b/2.jpg", "b/1.PNG", "a.jpeg", "b/c/x", "b/notes.txt", ".tar"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[0] + name.encode())
    folder = FolderImages(tmp_path / "folder")
    told = [folder.about(number) for number in range(len(folder))]
    assert told == [
        {"name": "a.jpeg"},
        {"name": "b/1.PNG", "label": "b"},
        {"name": "b/2.jpg", "label": "b"},
        {"name": "b/c/x", "label": "b/c"},
        {"name": "b/notes.txt", "label": "b"},
    ]
    assert [name for name, _ in folder.ignored] == [".tar"]
    assert reopen(folder.place(), told[2:]).read(1) == pictures[0] + b"b/c/x"
    for name in ("../secret.jpg", "/etc/passwd", "b/../../secret.jpg"):
        with pytest.raises(UserError, match="outside of"):
            reopen(folder.place(), [{"name": name}])
