"""Skipped steps (loss or gradient not finite), detected without device synchronisation."""

import torch
from torch import Tensor


class SkippedSteps:
    """Counter on the device of steps with a non-finite loss or gradient."""

    def __init__(self, device: torch.device) -> None:
        self._faulty, self._all, self._first = (torch.zeros((), device=device) for _ in range(3))

    def add(self, faulty: Tensor, anywhere: Tensor, step: int) -> None:
        """Count a step: `faulty` is the fault of this rank's rows, `anywhere` whether any rank has a fault."""
        self._first = torch.where((anywhere > 0) & (self._all == 0), float(step), self._first)
        self._faulty, self._all = self._faulty + faulty, self._all + anywhere

    def take(self) -> tuple[int, int, int]:
        """Since the last call: this rank's faulty steps, those of any rank, the first of these. Synchronises."""
        faulty, anywhere, first = torch.stack([self._faulty, self._all, self._first]).tolist()
        self._faulty, self._all = torch.zeros_like(self._faulty), torch.zeros_like(self._all)
        return int(faulty), int(anywhere), int(first)
