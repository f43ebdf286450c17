"""Dropout and stochastic depth of a backbone, which are switched off."""

from torch import nn


def disable_dropout(network: nn.Module) -> None:
    """Set the rates of dropout and stochastic depth of a network to 0, in place.

    The second forward pass of a micro-batch or of a checkpointed block, a resumed run, and a run on another number of
    ranks must compute the same function. This covers the layers of torch, torchvision and timm, and those with an
    attribute `drop_prob`; not a function such as `torch.nn.functional.dropout` called in a forward pass.
    """
    for layer in network.modules():
        # By name, since torchvision takes a second or two to import.
        if isinstance(layer, nn.modules.dropout._DropoutNd) or type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0  # type: ignore[assignment]
        elif isinstance(layer, nn.MultiheadAttention | nn.RNNBase):
            layer.dropout = 0.0
        if "drop_prob" in vars(layer):
            layer.drop_prob = 0.0  # type: ignore[assignment]
