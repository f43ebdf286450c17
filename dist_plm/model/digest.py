"""Names for weights: what was computed by them is filed under their name, and found by whoever has the same."""

import hashlib

import torch
from torch import nn


def digest(module: nn.Module) -> str:
    """A name for the weights of a module: equal weights, equal name."""
    sha = hashlib.sha256()
    for name, value in module.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
