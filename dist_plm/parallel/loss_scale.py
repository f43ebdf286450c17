"""Keeps gradients of float16 in range: scaled at the embeddings, brought back at the weights, halved on overflow."""

import torch
from torch import Tensor, nn

INITIAL, GROWTH, INTERVAL = 2.0**16, 2.0, 2000  # those of torch.amp.GradScaler


class LossScale:
    """A power of two that multiplies dL/dz before a float16 backward, whose smallest number is 6e-8.

    GradScaler would scale the loss, and with it the gradients of the proxies, which are float32 and never need it. A
    gradient of the network that overflows on one rank is not finite on any after the all-reduce, so that all ranks
    take the same decision without asking each other; and nothing here makes the host wait for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(INITIAL, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)

    def unscale(self, network: nn.Module) -> Tensor:
        """Divide the network's gradients, complete over the ranks, by the scale; then let it grow or shrink.

        Returns:
            Whether they overflowed (scalar bool): the step is to be left out. Never at a scale of 1, where what is not
            finite isn't so for being scaled.
        """
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        found = torch.zeros_like(self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, self.scale.reciprocal())
        overflow = (found > 0) & (self.scale > 1)
        torch._amp_update_scale_(self.scale, self.growth, found, GROWTH, 1 / GROWTH, INTERVAL)
        self.scale.clamp_(min=1)
        return overflow

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"scale": self.scale, "growth": self.growth}
