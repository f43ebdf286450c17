"""Digest of weights, by which embeddings are stored and found again."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def digest(module: nn.Module | Mapping[str, Tensor]) -> str:
    """Digest of the weights of a module or a state dict."""
    sha = hashlib.sha256()
    for name, value in (module.state_dict() if isinstance(module, nn.Module) else module).items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
