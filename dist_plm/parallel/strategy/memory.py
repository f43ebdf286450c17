"""Computed memory of the networks on a rank under each strategy."""

from dist_plm.config import ZeroConfig

FLOAT = 4  # bytes


def network_bytes(weights: int, moments: int, world_size: int, zero: ZeroConfig | None) -> float:
    """Bytes on the device for student and momentum encoder: weights, gradients, moments.

    Without activations and temporary buffers, such as 200 MB of gradients in communication.

    Args:
        weights: Number of weights of the network.
        moments: Moments per weight.
        zero: None for a strategy with replicated state.
    """
    if zero is None:
        return FLOAT * weights * (1 + 1 + moments + 1)
    whole, cut = {1: (3, 0), 2: (2, 1), 3: (0, 3)}[zero.stage]  # of weights, gradients and momentum encoder
    rule = 0 if zero.offload else 1 + moments  # it updates a copy of the weights, in all stages
    return FLOAT * weights * (whole + (cut + rule) / world_size)
