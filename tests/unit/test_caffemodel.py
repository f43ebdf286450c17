"""Files of Caffe, written here byte by byte, into the network and back; and what is no such file."""

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_plm.errors import UserError
from dist_plm.model import build_backbone
from dist_plm.model.bvlc_googlenet import BvlcGooglenet
from tests.settings import model_of


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def whole(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def framed(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: Tensor, old: bool) -> bytes:
    """Caffe of 2014 gives four sizes, with ones before those that a tensor has; later ones give a shape."""
    data = framed(5, struct.pack(f"<{tensor.numel()}f", *tensor.flatten().tolist()))
    if old:
        sizes = [1] * (4 - tensor.ndim) + list(tensor.shape)
        return b"".join(whole(1 + place, size) for place, size in enumerate(sizes)) + data
    return data + framed(7, framed(1, b"".join(map(varint, tensor.shape))))


def caffemodel(state: dict[str, Tensor], old: bool) -> bytes:
    """A network called x, of which each layer also has a type, a gradient and a rate: fields that nobody asks for."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = tensor
    out = framed(1, b"x")
    for name, parts in layers.items():
        blobs = b"".join(
            framed(6 if old else 7, blob(parts[kind], old)) for kind in ("weight", "bias") if kind in parts
        )
        kind = whole(5, 4) + varint(7 << 3 | 5) + struct.pack("<f", 1.0) if old else framed(2, b"Convolution")
        out += framed(2 if old else 100, framed(4 if old else 1, name.encode()) + kind + blobs)
        out += framed(2 if old else 100, framed(4 if old else 1, b"relu"))
    return out


@pytest.mark.parametrize("old", [True, False])
def test_a_network_of_caffe(tmp_path: Path, old: bool):
    network = BvlcGooglenet()
    named = {name.replace(".", "/", name.count(".") - 1): tensor for name, tensor in network.state_dict().items()}
    named["loss1/fc.weight"], named["loss1/fc.bias"] = torch.ones(2, 3), torch.ones(2)
    path = tmp_path / "googlenet.caffemodel"
    path.write_bytes(caffemodel(named, old))
    found = build_backbone(model_of(weights=str(path))).state_dict()
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


TORN = caffemodel({"conv.weight": torch.ones(2, 3, 1, 1)}, old=True)


@pytest.mark.parametrize(
    ("content", "told"),
    {
        "cut": (TORN[:-20], "not a Caffe message"),
        "text": (b"layer { name: 'conv1' }", "not a Caffe message"),
        "empty": (b"", "no layer with weights"),
        "other sizes": (
            TORN.replace(whole(2, 3) + whole(3, 1), whole(2, 9) + whole(3, 1)),
            "conv.weight has 6 numbers",
        ),
        "another network": (TORN, "does not fit the backbone"),
    }.values(),
)
def test_what_is_no_network_of_caffe_is_said(tmp_path: Path, content: bytes, told: str):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        build_backbone(model_of(weights=str(path)))
