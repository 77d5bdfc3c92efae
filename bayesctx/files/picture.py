"""PNG and JPEG: pictures, whose grey values are those of a display."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ..storage import warn
from .assembly import Choice, assemble
from .formats import reading, refuse
from .record import Signal

__all__ = ["read_picture", "warn_of_display"]

GREY = ("1", "L", "I", "F", "I;16", "I;16B", "I;16L")


def read_picture(path: Path, choice: Choice) -> xr.DataArray:
    """Read a picture of grey values.

    Parameters
    ----------
    path : Path
        A PNG or JPEG file.
    choice : Choice
        Of the user.

    Returns
    -------
    DataArray, shape (y, x)
        Grey values, without a pixel size.

    Raises
    ------
    ValueError
        If it is damaged, or in colours.

    Warns
    -----
    UserWarning
        That grey values of pictures are not proportional to counts.
    """
    # imported when used, as the other readers' libraries are
    from PIL import Image

    with reading(path, "a picture"), Image.open(path) as picture:
        kind = str(picture.format)
        values = np.asarray(picture if picture.mode in GREY else picture.convert("RGB"))
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise refuse(
                path,
                "a picture in colours, which are no intensities",
                "export the data of the detector as TIFF",
            )
        values = values[..., 0]
    warn_of_display(choice.path, f"a {kind} picture")
    values = values.astype(np.uint8) if values.dtype == bool else values
    return assemble([Signal.of("", values)], choice, kind)


def warn_of_display(path: str, what: str) -> None:
    """Warn that grey values are those of a display.

    Parameters
    ----------
    path : str
        Name of the file.
    what : str
        What it is, in words.

    Warns
    -----
    UserWarning
        Always.
    """
    warn(
        f"{path} is {what}: its grey values were scaled for a display (clipped, perhaps not "
        "linear), and it states no pixel size; use the file of the microscope if there is one"
    )
