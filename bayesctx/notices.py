"""Warnings that show the line of the user."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

INSIDE = ("bayesctx", "torch")  # whose frames the user did not write; the second one's are those of its decorators


def warn(message: str) -> None:
    """Warn whoever called the package.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
