"""Loads weights from a file safely, with all names and shapes checked."""

import pickle
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dist_plm.errors import UserError

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".caffemodel")
# Prefixes of wrappers. Of student and teacher, the teacher is used.
PREFIXES = ("module.", "model.", "backbone.", "teacher.", "student.")


def check_file(weights: str) -> Path:
    """The path of a file of weights, unread.

    Raises:
        UserError: No such file, or a suffix that is not one of SUFFIXES.
    """
    path = Path(weights).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"model.weights: '{weights}' is neither empty, 'imagenet' (torchvision), 'pretrained' (timm) nor a file "
            f"that ends in {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise UserError(f"model.weights: no file '{path}' (looked in {path.absolute().parent})")
    return path


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        UserError: The file is damaged, or not one flat dict of tensors.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        if path.suffix.lower() == ".caffemodel":
            from dist_plm.model.caffemodel import read_caffemodel

            return read_caffemodel(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"model.weights: '{path}' is not a plain file of tensors; anything else could run code and is not loaded. "
            "To convert your own file: torch.save(model.state_dict(), file)"
        ) from error
    except PermissionError as error:
        raise UserError(f"model.weights: cannot read '{path}': {error.strerror}") from error
    # Damaged files raise a dozen kinds of exception (SafetensorError, KeyError, EOFError, BadZipFile, ...).
    except Exception as error:
        # torch adds paragraphs about its own ZIP library to the first sentence; of an empty file it says nothing.
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise UserError(
            f"model.weights: cannot read '{path}' ({path.stat().st_size:,} bytes; {reason}): the file is truncated or "
            "damaged, download or copy it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"model.weights: '{path}' is not one flat dict of tensors. Save the inner one: torch.save(state_dict, file)"
        )
    return state


def without_prefix(state: dict[str, Tensor], wanted: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file under the names of a network, and the removed prefix, empty for none.

    Tensors without the prefix, such as a projection head or the student beside a teacher, are dropped.
    """
    prefix = ""
    while not any(name in state for name in wanted):
        leading = next((candidate for candidate in PREFIXES if any(name.startswith(candidate) for name in state)), None)
        if leading is None:
            break
        state = {name.removeprefix(leading): value for name, value in state.items() if name.startswith(leading)}
        prefix += leading
    return state, prefix


def load(network: nn.Module, state: dict[str, Tensor], path: Path, unused: tuple[str, ...] = ()) -> None:
    """Copies weights into a network; every tensor of the network must be there, in its shape, and nothing else.

    Args:
        network: Changed in place, in its own precision.
        state: By the names of the network's state dict.
        path: Named in errors.
        unused: Prefixes of names that are ignored, such as a classifier.

    Raises:
        UserError: Names the first tensors that are missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    # The counter is unused with a fixed momentum, and missing in files before torch 0.4.1.
    missing = [name for name in wanted if name not in state and not name.endswith(".num_batches_tracked")]
    unknown = [name for name in state if name not in wanted and not name.startswith(unused)]
    misshaped = [
        f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshaped}
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {fault}: {', '.join(names[:3])}" for fault, names in faults.items() if names)
        raise UserError(
            f"model.weights: '{path}' does not fit the backbone ({len(wanted)} tensors): {listed}. "
            "Use a file of this backbone, or set model.backbone to that of the file"
        )
    network.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
