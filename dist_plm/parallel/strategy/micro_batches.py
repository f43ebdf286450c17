"""Micro-batches with the gradient of the whole batch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class MicroBatches:
    """Embeds a batch without gradient, then, given dL/dz, each micro-batch again with gradient.

    Each micro-batch adds dz/dtheta' dL/dz, which sum to the exact gradient of the whole batch; a sum of losses over
    micro-batches would lack the pairs between them. Both passes use the same random numbers, so that dropout masks
    agree.

    Args:
        count: Micro-batches of a rank's share, the same on all ranks, since ZeRO has collectives in each; at most the
                    rows of the smallest share.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.count = count
        self._device = device
        self._states: list[list[Tensor]] = []

    @torch.no_grad()
    def embed(self, network: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Views [b, 3, h, w] -> z [b, D] without gradient."""
        self._states, embedded = [], []
        for piece in views.tensor_split(self.count):
            self._states.append(self._state())
            embedded.append(network(piece))
        return torch.cat(embedded)

    def again(self, views: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Each micro-batch, its rows of `gradient` [b, D], and whether it is the last; with the same random numbers."""
        devices = [self._device] if self._device.type == "cuda" else []
        pieces = list(zip(views.tensor_split(self.count), gradient.tensor_split(self.count), self._states, strict=True))
        for number, (piece, piece_gradient, state) in enumerate(pieces, start=1):
            with torch.random.fork_rng(devices):
                torch.set_rng_state(state[0])
                if devices:
                    torch.cuda.set_rng_state(state[1], self._device)
                yield piece, piece_gradient, number == len(pieces)

    def _state(self) -> list[Tensor]:
        state = [torch.get_rng_state()]
        return [*state, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else state
