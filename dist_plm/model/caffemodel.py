"""Reads weights from a .caffemodel, a protobuf message; fields not listed here are ignored."""

from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch import Tensor

# {message: {field: (number, type, repeated)}}, from caffe.proto, in which `layer` replaced `layers`, and `shape` the
# four sizes of a blob: files of both kinds are about.
MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "BlobShape": {"dim": (1, "int64", True)},
    "BlobProto": {
        "num": (1, "int32", False),
        "channels": (2, "int32", False),
        "height": (3, "int32", False),
        "width": (4, "int32", False),
        "data": (5, "float", True),
        "shape": (7, "BlobShape", False),
    },
    "V1LayerParameter": {"name": (4, "string", False), "blobs": (6, "BlobProto", True)},
    "LayerParameter": {"name": (1, "string", False), "blobs": (7, "BlobProto", True)},
    "NetParameter": {"layers": (2, "V1LayerParameter", True), "layer": (100, "LayerParameter", True)},
}


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """The tensors float32 of a file: `LAYER.weight`, of a convolution [out, in, h, w], and `LAYER.bias` [out].

    Raises:
        ValueError: It is not such a file, or a tensor is incomplete.
    """
    try:
        network = _network().FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"not a Caffe message ({error})") from error
    layers = [layer for layer in (*network.layers, *network.layer) if layer.blobs]
    if not layers:
        raise ValueError("no layer with weights")
    tensors = {}
    for layer in layers:
        for name, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            tensors[f"{layer.name}.{name}"] = _tensor(f"{layer.name}.{name}", blob)
    return tensors


def _tensor(name: str, blob: Any) -> Tensor:
    old = [blob.num, blob.channels, blob.height, blob.width]
    shape = list(blob.shape.dim) if blob.HasField("shape") else old
    if any(size < 0 for size in shape) or prod(shape) != len(blob.data):
        raise ValueError(f"{name} has {len(blob.data):,} numbers, not the {shape} that it says")
    values = torch.from_numpy(np.array(blob.data, dtype=np.float32))
    return values if name.endswith(".bias") else values.reshape(shape)


@cache
def _network() -> Any:
    """The class of a NetParameter."""
    kinds = descriptor_pb2.FieldDescriptorProto
    types = {
        "int32": kinds.TYPE_INT32,
        "int64": kinds.TYPE_INT64,
        "float": kinds.TYPE_FLOAT,
        "string": kinds.TYPE_STRING,
    }
    file = descriptor_pb2.FileDescriptorProto(name="caffemodel.proto", package="caffe", syntax="proto2")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label, type=types.get(kind, kinds.TYPE_MESSAGE))
            if kind not in types:
                field.type_name = f".caffe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))
