"""Names for weights: what was computed by them is filed under their name, and found by whoever has the same."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def digest(module: nn.Module | Mapping[str, Tensor]) -> str:
    """A name for the weights of a module, or of a state dict: equal weights, equal name."""
    sha = hashlib.sha256()
    for name, value in (module.state_dict() if isinstance(module, nn.Module) else module).items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
