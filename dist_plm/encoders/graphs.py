"""The network as a graph that runs without this package, at any batch size: ONNX and torch.export."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import torch
from torch import Tensor

from dist_plm.encoders.embedder import Embedder
from dist_plm.errors import UserError

Run = Callable[[Tensor], Tensor]  # uint8 views [b, 3, s, s] -> embeddings [b, D]
Writer = Callable[[Path, Embedder], tuple[str, Run]]


def require(formats: list[str]) -> None:
    """Raise UserError if a format needs a package that is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if "onnx" in formats and missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install -e '.[export]'")


def write_onnx(folder: Path, embedder: Embedder) -> tuple[str, Run]:
    """Write model.onnx; returns its name and a function that runs it by ONNX Runtime."""
    import onnxruntime

    file = "model.onnx"
    with _silent():
        program = torch.onnx.export(
            *(embedder.network, (_example(embedder),)),
            dynamo=True,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        program.save(folder / file)
    session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])

    def run(views: Tensor) -> Tensor:
        (embeddings,) = session.run(["embeddings"], {"images": views.numpy()})
        return torch.from_numpy(embeddings)

    return file, run


def write_torch_export(folder: Path, embedder: Embedder) -> tuple[str, Run]:
    """Write model.pt2; returns its name and a function that runs it by torch.

    torch.export.load may unpickle parts of an archive: use it for trusted archives only, as here.
    """
    file = "model.pt2"
    with _silent():
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(embedder.network, (_example(embedder),), dynamic_shapes=shapes)
        torch.export.save(program, archive := BytesIO())  # on a full disk torch's own writer ends the process
        (folder / file).write_bytes(archive.getbuffer())
        return file, torch.export.load(folder / file).module()


WRITERS: dict[str, Writer] = {"onnx": write_onnx, "torch_export": write_torch_export}


def _example(embedder: Embedder) -> Tensor:
    # A batch of one or zero would be specialised to a constant.
    return torch.zeros(2, 3, embedder.views.size, embedder.views.size, dtype=torch.uint8)


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the exporter's progress messages and deprecation warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
