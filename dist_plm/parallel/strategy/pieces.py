"""A batch embedded piece by piece, with the gradient of the whole."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class Pieces:
    """First all of a batch without gradient, then, once dL/dz is known, piece by piece with gradient.

    Each piece adds dz/dtheta' dL/dz, and the pieces sum to the gradient of the whole batch exactly, which the sum of
    losses over pieces would not (it lacks their cross pairs). A piece draws the same random numbers both times: dL/dz
    is that of the dropout masks under which z came about.

    Args:
        count: Pieces of a rank's share, the same on all ranks, since ZeRO's collectives run once a piece; at most the
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
        """Each piece, its rows of `gradient` [b, D], and whether it is the last; under the same random numbers."""
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
