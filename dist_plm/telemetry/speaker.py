"""Who speaks for all ranks."""

from typing import Protocol

import torch


class Speaker(Protocol):
    """A rank, as far as telemetry has to know it; `distributed.world.World` is one."""

    @property
    def is_first(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...
