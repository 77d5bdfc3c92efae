"""Files that are whole or not there: what is written takes the place of an old file only when it is complete."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

__all__ = ["replacing", "warn"]


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside a file, and put the new one in its place at the end.

    Parameters
    ----------
    path : path-like
        The file.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    OSError
        If it cannot be written; the old file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except (
        RuntimeError,
        SafetensorError,
    ) as error:  # what HDF5, torch and safetensors make of a full disk
        raise OSError(f"{path} could not be written ({error}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


INSIDE = (
    "bayesctx",
    "torch",
)  # whose frames the user did not write; the second one's are those of its decorators


def warn(message: str) -> None:
    """Warn whoever called the package.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    """
    frame, level = sys._getframe(1), 2
    while (
        frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
