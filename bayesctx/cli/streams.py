"""Output streams that outlive their reader: a result is written although ``| head`` has closed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO

__all__ = ["tolerant_streams"]


class _Tolerant:
    """A stream that goes to the null device once its reader is gone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._tolerance():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerance():
            self._stream.flush()

    @contextmanager
    def _tolerance(self) -> Iterator[None]:
        """Ignore a reader that is gone; other errors, such as a full disk, are raised once."""
        try:
            yield
        except OSError as error:
            # what is still in the buffer must go somewhere when Python ends
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if not isinstance(error, BrokenPipeError):
                raise


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Let stdout and stderr survive a broken pipe while the context is open."""
    with ExitStack() as stack:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            if stream is not None:  # closed by the shell
                tolerant = stack.enter_context(redirect(_Tolerant(stream)))
                stack.callback(_flush, tolerant)
        yield


def _flush(stream: _Tolerant) -> None:
    """Write what is left, where that is possible."""
    with suppress(OSError):
        stream.flush()
