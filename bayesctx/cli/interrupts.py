"""Ctrl-C while libraries are imported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["delayed_interrupt"]


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Raise a KeyboardInterrupt at the end of the context instead of within it.

    The import system calls functions whose exceptions Python prints and drops, and so drops an
    interrupt that falls into one of them: the program would go on.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if previous is not signal.default_int_handler or not in_main_thread:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if caught:
        raise KeyboardInterrupt
