"""Images as 8-bit pictures within a budget of bytes, and arrays as compressed text."""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["Raster", "draw_raster", "fold_patches", "pack"]

QUALITIES = (92, 85, 75, 60, 45)
LEAST_SIDE = 64  # px, to which a picture is never made smaller
GAP = 4  # px between patches


@dataclass(frozen=True)
class Raster:
    """A picture of one image, which a page can contain.

    Attributes
    ----------
    uri : str
        The picture as a data URI: PNG, or JPEG where that would be too large.
    low, high : float
        Intensities of black and white.
    shrink : int
        Pixels of the image along one pixel of the picture.
    quality : int
        Of JPEG; 0 for PNG, which loses nothing but the depth of 8 bits.
    """

    uri: str
    low: float
    high: float
    shrink: int
    quality: int


def draw_raster(values: np.ndarray, low: float, high: float, budget: int) -> Raster:
    """Draw an image in 256 levels of grey, as well as a number of bytes allows.

    Parameters
    ----------
    values : ndarray, shape (y, x)
        Intensities; what is not finite is drawn as ``low``.
    low, high : float
        Intensities of black and white.
    budget : int
        Largest number of bytes of the encoded picture.

    Returns
    -------
    Raster
        PNG if it fits, else JPEG of the best quality that fits, else the same at half the size.
    """
    span = high - low if high > low else 1.0
    shrink, part = 1, np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    while True:
        level = np.rint(255 * ((part - low) / span).clip(0, 1)).astype(np.uint8)
        picture = Image.fromarray(level)
        # noise of 8 bits takes half a byte for a pixel and more without loss
        for quality in (0, *QUALITIES) if part.size < 2 * budget else QUALITIES:
            data = _encode(picture, quality)
            if len(data) <= budget or (min(part.shape) <= LEAST_SIDE and quality == QUALITIES[-1]):
                kind = "jpeg" if quality else "png"
                uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
                return Raster(uri, float(low), float(high), shrink, quality)
        shrink, part = 2 * shrink, _halve(part)


def _encode(picture: Image.Image, quality: int) -> bytes:
    """A picture as JPEG, or as PNG where the quality is zero."""
    file = io.BytesIO()
    if quality:
        picture.save(file, "JPEG", quality=quality, optimize=True)
    else:
        picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _halve(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is repeated."""
    y, x = values.shape
    even = np.pad(values, ((0, y % 2), (0, x % 2)), mode="edge")
    return even.reshape(-(-y // 2), 2, -(-x // 2), 2).mean((1, 3))


def fold_patches(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arrange patches side by side, each scaled from 0 to 1.

    Parameters
    ----------
    patches : ndarray, shape (patch, y, x)
        Intensities.

    Returns
    -------
    image : ndarray, shape (row, column)
        With gaps of one.
    middles : ndarray, shape (patch, 2)
        (x, y) of the middle of each patch in px of this image.
    """
    num, y, x = patches.shape
    num_columns = int(np.ceil(np.sqrt(num * (y + GAP) / (x + GAP))))
    num_rows = -(-num // num_columns)
    image = np.ones((num_rows * (y + GAP) + GAP, num_columns * (x + GAP) + GAP))
    middles = np.zeros((num, 2))
    for i, patch in enumerate(patches):
        top, left = (
            GAP + k * (n + GAP) for k, n in zip(divmod(i, num_columns), (y, x), strict=True)
        )
        finite = patch[np.isfinite(patch)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        scaled = (np.nan_to_num(patch, nan=low) - low) / (high - low if high > low else 1.0)
        image[top : top + y, left : left + x] = scaled
        middles[i] = left + (x - 1) / 2, top + (y - 1) / 2
    return image, middles


def pack(values: np.ndarray) -> str:
    """Write an array as text, compressed by zlib and in base 64.

    Parameters
    ----------
    values : ndarray
        Of a type that a typed array of JavaScript has.

    Returns
    -------
    str
        Of its bytes, the lowest first.
    """
    little = values.astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode()
