"""Signals read by a thread: a Python handler only runs when the main thread returns from C++, perhaps hours later.

The C level of CPython's handlers writes each signal's number to a file at once (`signal.set_wakeup_fd`), whatever the
main thread does; a thread reads it there.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dist_plm.distributed.environment import place
from dist_plm.distributed.torchrun import leave_status


@contextmanager
def listening(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Call `on_signal` in a thread with the number of each signal that has a Python handler.

    Does nothing outside of the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while number := reader.recv(1):
            on_signal(number[0])

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()  # ends the thread
        thread.join(1.0)
        reader.close()


@contextmanager
def ending_at_once(doing: str, status: int | None = None, caught: int = 0) -> Iterator[None]:
    """Exit at the first signal, while there is no work yet that could be lost.

    Args:
        doing: The interrupted activity, for the message that one rank per machine prints.
        status: Exit status; None for the shell's, 128 + the signal.
        caught: A signal received earlier; 0 for none.
    """

    def leave(number: int) -> None:
        if place().local == 0:
            name = signal.Signals(number).name
            print(f"{name} while {doing}: nothing was started; rerun the command", file=sys.stderr, flush=True)
        leave_status(code := 128 + number if status is None else status, "")
        os._exit(code)

    if caught:
        leave(caught)
    with listening(leave):
        yield
