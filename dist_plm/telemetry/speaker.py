"""Protocol of the rank that prints and logs for all."""

from typing import Protocol

import torch


class Speaker(Protocol):
    """A rank as telemetry needs it; implemented by `distributed.world.World`."""

    @property
    def is_first(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...
