"""Steps that must not count: a loss or a gradient that is not finite, found without making the host wait."""

import torch
from torch import Tensor


class VoidSteps:
    """Steps whose loss or gradients were not finite, counted on the device and read when it suits the host."""

    def __init__(self, device: torch.device) -> None:
        self._own, self._all, self._first = (torch.zeros((), device=device) for _ in range(3))

    def add(self, own: Tensor, anywhere: Tensor, step: int) -> None:
        """Count a step: `own` is what this rank found in its own rows, `anywhere` whether any rank found a fault."""
        self._first = torch.where((anywhere > 0) & (self._all == 0), float(step), self._first)
        self._own, self._all = self._own + own, self._all + anywhere

    def take(self) -> tuple[int, int, int]:
        """Since the last call: this rank's void steps, those of any rank, the first of these. Waits for the device."""
        own, anywhere, first = torch.stack([self._own, self._all, self._first]).tolist()
        self._own, self._all = torch.zeros_like(self._own), torch.zeros_like(self._all)
        return int(own), int(anywhere), int(first)
