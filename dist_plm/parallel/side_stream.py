"""Work that waits for nothing the main stream is doing: on a GPU it is queued on a stream of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SideStream:
    """`follow()`, queue something, `with work(): ...`, `join()`: the block runs beside what was queued since `follow`.

    On a CPU all is in turn. No tensor needs `record_stream`: the memory of what the second stream made and the main one
    used is taken again by work of the second stream alone, which starts after all that the main one had queued at
    `follow`; so nothing that was made beside may be freed between `follow` and the end of the block. What the main
    stream made and the block used is to be freed after `join`.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def follow(self) -> None:
        """Let what is queued beside from now on start after all that the main stream has queued so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    @contextmanager
    def work(self) -> Iterator[None]:
        """Nothing may be queued on the main stream from within."""
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Let the main stream wait for all that was queued beside it."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
