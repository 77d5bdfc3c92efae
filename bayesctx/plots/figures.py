"""Empty figures, the colours that all plots share, and the error without matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["POSTERIOR", "PRIOR", "TRUTH", "new_axes", "new_figure"]

PRIOR, POSTERIOR, TRUTH = "#B8B8B8", "#0072B2", "#000000"
MISSING = "plots need matplotlib: pip install bayesctx[plot]"


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure that needs no display.

    Parameters
    ----------
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    Figure
        Of matplotlib.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MISSING) from error
    return Figure(figsize=size, layout="constrained")


def new_axes(size: tuple[float, float], *, num_rows: int = 1, num_columns: int = 1) -> np.ndarray:
    """Return axes of a new pyplot figure.

    Parameters
    ----------
    size : tuple of float
        Width and height of the figure in inches.
    num_rows, num_columns : int
        Numbers of axes.

    Returns
    -------
    ndarray of Axes, shape (num_rows * num_columns,)
        Row by row.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(MISSING) from error
    return plt.subplots(num_rows, num_columns, layout="constrained", figsize=size, squeeze=False)[
        1
    ].ravel()
