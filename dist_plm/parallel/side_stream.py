"""Concurrent work on a second CUDA stream."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """`follow()`, queue work, `with work(): ...`, `join()`: the block overlaps with work queued since `follow`.

    Sequential on a CPU. No tensor needs `record_stream`: memory allocated by the second stream and used by the main one
    is only reused by the second stream, whose work starts after everything that the main stream had queued at `follow`;
    so its tensors must not be freed between `follow` and the end of the block. Tensors of the main stream used in the
    block must be freed after `join`.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def follow(self) -> None:
        """Let the second stream wait for the work queued on the main stream so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    @contextmanager
    def work(self) -> Iterator[None]:
        """Context of the second stream; nothing may be queued on the main stream within it."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Let the main stream wait for the second one."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
