"""What the network takes on a rank under each strategy, by arithmetic."""

from dist_plm.config import ZeroConfig

FLOAT = 4  # bytes


def network_bytes(weights: int, moments: int, world_size: int, zero: ZeroConfig | None) -> float:
    """Bytes on the device for student and momentum encoder: weights, gradients, moments.

    Not counted: activations, and what is whole for a moment, such as 200 MB of gradients on their way.

    Args:
        weights: Of the network.
        moments: Numbers that the rule keeps for each.
        zero: None for a strategy that keeps all on every rank.
    """
    if zero is None:
        return FLOAT * weights * (1 + 1 + moments + 1)
    whole, cut = {1: (3, 0), 2: (2, 1), 3: (0, 3)}[zero.stage]  # of weights, gradients and momentum encoder
    rule = 0 if zero.offload else 1 + moments  # it moves a copy of the weights, in all stages
    return FLOAT * weights * (whole + (cut + rule) / world_size)
