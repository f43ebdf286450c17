"""Loss scaling for float16: dL/dz is scaled, gradients of weights unscaled, the scale halved on overflow."""

import torch
from torch import Tensor, nn

INITIAL, GROWTH, INTERVAL = 2.0**16, 2.0, 2000  # those of torch.amp.GradScaler


class LossScale:
    """A power of two that multiplies dL/dz before a float16 backward, whose smallest number is 6e-8.

    GradScaler would scale the loss, and with it the float32 gradients of the proxies. A gradient that overflows on one
    rank is not finite on any rank after the all-reduce, so that all ranks decide alike without further communication;
    there is no device synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.tensor(INITIAL, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)

    def unscale(self, network: nn.Module) -> Tensor:
        """Divide the network's reduced gradients by the scale, and update the scale.

        Returns:
            Whether they overflowed (scalar bool), so that the step must be skipped; never at a scale of 1, since
            scaling is not the cause then.
        """
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        overflow_flag = torch.zeros_like(self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflow_flag, self.scale.reciprocal())
        overflow = (overflow_flag > 0) & (self.scale > 1)
        torch._amp_update_scale_(self.scale, self.growth, overflow_flag, GROWTH, 1 / GROWTH, INTERVAL)
        self.scale.clamp_(min=1)
        return overflow

    def state(self) -> dict[str, Tensor]:
        """State for checkpoints."""
        return {"scale": self.scale, "growth": self.growth}
