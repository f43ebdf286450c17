"""Work that waits for nothing the main stream is doing: on a GPU it is queued on a stream of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Beside:
    """`with beside.work(): ...` queues on a second stream; `join` before its results are used. On a CPU: in turn.

    No tensor needs `record_stream`. The memory of what the second stream made and the main one used is taken again by
    work of the second stream alone, which starts after all that the main one had queued when the block was entered.
    What the main stream made and the second used is freed after `join`.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def work(self) -> Iterator[None]:
        """Nothing may be queued on the main stream from within."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Let the main stream wait for all that was queued beside it."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
