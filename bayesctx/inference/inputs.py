"""What was handed to ``infer``: values, layout, valid pixels and the pixel size that coordinates state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from ..micrograph import check_image
from ..prior import Prior
from ..storage import warn
from ..tensors import interpolation_matrix

__all__ = ["Inputs", "read_inputs", "resample_patches"]

LAYOUTS = {2: ("y", "x"), 3: ("patch", "y", "x"), 4: ("image", "patch", "y", "x")}
NAMED = (("y", "x"), ("patch", "y", "x"), ("image", "y", "x"), ("image", "patch", "y", "x"))
AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
LARGEST_PATCH = 4  # widths of the patch of the model; what is larger is a micrograph
UNEQUAL = 0.002  # relative difference of two spacings that rounding does not explain
ANGSTROM = {
    "å": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0, "nm": 10.0, "nanometer": 10.0,
    "nanometre": 10.0, "pm": 0.01, "um": 1e4, "µm": 1e4, "μm": 1e4, "micrometer": 1e4, "mm": 1e7, "m": 1e10,
}  # fmt: skip
"""Units of length that coordinates are read in, in Å."""
PIXEL_UNITS = ("", "1", "px", "pixel", "pixels", "index")


@dataclass(frozen=True)
class Inputs:
    """An image or patches as they were handed in.

    Attributes
    ----------
    dims : tuple of str
        Dimensions of the input.
    observed : ndarray
        The input.
    values : ndarray
        Intensities in double precision: (y, x) of a micrograph, (image, patch, y, x) of patches.
    valid : ndarray of bool, shape (y, x)
        Pixels of a micrograph that are part of the image.
    sampling : float, optional
        Size of a pixel in Å as stated by the coordinates.
    is_micrograph : bool
        Whether it is one image of many sites.
    """

    dims: tuple[str, ...]
    observed: np.ndarray
    values: np.ndarray
    valid: np.ndarray | None
    sampling: float | None
    is_micrograph: bool


def read_inputs(
    image: object, valid: object, patch_extent: float, num_pixels: int, sampling: object
) -> Inputs:
    """Read what was handed to ``infer``.

    Parameters
    ----------
    image : DataArray, ndarray, masked array or Tensor
        See ``infer``.
    valid : array of bool or None
        Pixels of a micrograph that are part of the image; those that are masked or not finite are not.
    patch_extent : float
        Width of the patch of the model in Å.
    num_pixels : int
        Pixels of the patch of the model.
    sampling : object
        Size of a pixel as the context states it, checked.

    Returns
    -------
    Inputs
        Ready to be located or encoded.

    Raises
    ------
    TypeError, ValueError
        For what is no image, or of a size, shape or type that is not covered.
    """
    values, masked = _as_array(image)
    dims = _dimensions(image, values)
    spacing = _spacing(image) if isinstance(image, xr.DataArray) else None
    _check_size(values, dims)
    step = sampling if isinstance(sampling, float) else spacing
    largest = LARGEST_PATCH * (num_pixels if step is None else max(patch_extent / step, 1.0))
    is_large = max(values.shape[-2:]) > largest
    if len(dims) > 2 and is_large:
        raise ValueError(
            f"patches of at most {largest:.0f} pixels a side were expected, got {values.shape} with "
            f"dimensions {dims}; these are whole micrographs: sum the frames of a series or call "
            "infer for each image"
        )
    if len(dims) == 2 and max(values.shape) > num_pixels:
        usable = _valid_pixels(values, masked, valid)
        if not usable.any():
            raise ValueError(
                f"valid pixels were expected, all {usable.size} are masked or not finite; check the mask"
            )
        filled = np.where(usable, values, np.median(values[usable]))
        check_image(filled)
        return Inputs(dims, values, filled.astype(np.float64), usable, spacing, True)
    _check_patches(values, masked, valid)
    flat = values.astype(np.float64)
    shape = {(): (1, 1), ("patch",): (1, -1), ("image",): (-1, 1)}.get(dims[:-2], values.shape[:2])
    return Inputs(dims, values, flat.reshape(*shape, *flat.shape[-2:]), None, spacing, False)


def _as_array(image: object) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as a real array, and which of them a mask marks as invalid."""
    if isinstance(image, xr.Dataset):
        names = [str(n) for n, v in image.data_vars.items() if v.dims[-2:] == ("y", "x")]
        raise TypeError(
            f"an image was expected, got a Dataset with the images {names}; pass one of them, "
            f"for example data[{(names or ['intensity'])[0]!r}]"
        )
    values = image.values if isinstance(image, xr.DataArray) else image
    if isinstance(image, xr.DataArray) and isinstance(image.data, np.ma.MaskedArray):
        values = image.data
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"an array of numbers was expected as the image, got {type(image).__name__} ({error}); "
            "pass a DataArray or a numpy array"
        ) from error
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"an image of real numbers was expected, got {type(image).__name__} of {array.dtype}; "
            "pass the recorded counts"
        )
    return array, masked


def _dimensions(image: object, values: np.ndarray) -> tuple[str, ...]:
    """Names of the dimensions, those of a plain array by their number."""
    named = isinstance(image, xr.DataArray)
    if not named and values.ndim == 3 and values.shape[-1] in (3, 4):
        check_image(values)  # refuses colours
    dims = tuple(map(str, image.dims)) if named else LAYOUTS.get(values.ndim)
    if dims not in NAMED:
        raise ValueError(
            "dimensions (y, x), (patch, y, x), (image, y, x) or (image, patch, y, x) were expected, "
            f"got {dims or values.shape}; transpose the image or select one detector"
        )
    return dims


def _spacing(image: xr.DataArray) -> float | None:
    """Size of a pixel in Å by the coordinates y and x, None where they are positions in pixels."""
    steps = {}
    for axis in ("y", "x"):
        if axis not in image.coords or image.sizes[axis] < 2:
            continue
        places = np.asarray(image[axis].values, float)
        step = np.diff(places)
        if not np.isfinite(step).all() or np.ptp(step) > UNEQUAL * max(abs(step.mean()), 1e-30):
            raise ValueError(
                f"equally spaced coordinates were expected along {axis}, got steps from "
                f"{step.min():g} to {step.max():g}; resample the image or drop the coordinate"
            )
        steps[axis] = (abs(float(step.mean())), str(image[axis].attrs.get("units", "")).strip())
    if not steps:
        return None
    sizes = [size for size, _ in steps.values()]
    units = {unit.lower() for _, unit in steps.values()}
    if len(units) > 1 or max(sizes) > (1 + UNEQUAL) * min(sizes):
        text = " and ".join(f"{size:g} {unit} along {axis}" for axis, (size, unit) in steps.items())
        raise ValueError(f"square pixels were expected, got {text}; resample the image")
    (unit,) = units
    if unit in ANGSTROM:
        return sizes[0] * ANGSTROM[unit]
    if unit not in PIXEL_UNITS:
        raise ValueError(
            f"coordinates in a unit of length were expected, got {unit!r}; known are "
            f"{', '.join(ANGSTROM)}"
        )
    if not math.isclose(sizes[0], 1.0, rel_tol=UNEQUAL) and unit == "":
        warn(
            f"the coordinates of the image have a spacing of {sizes[0]:g} and no unit, so they are not "
            "used; set their attribute 'units' or give sampling [Å/px]"
        )
    return None


def _check_size(values: np.ndarray, dims: tuple[str, ...]) -> None:
    """Raise for arrays without a pixel."""
    if not values.size:
        raise ValueError(
            f"at least one image was expected, got shape {values.shape} with dimensions {dims}"
        )


def _valid_pixels(values: np.ndarray, masked: np.ndarray | None, valid: object) -> np.ndarray:
    """Pixels of a micrograph that are part of the image, shape (y, x)."""
    usable = np.isfinite(values)
    if masked is not None:
        usable &= ~masked
    if valid is None:
        return usable
    given = np.asarray(valid)
    if given.dtype != bool or given.shape != values.shape:
        raise ValueError(
            f"valid was expected as an array of bool of shape {values.shape}, got {given.dtype} of "
            f"shape {given.shape}; True marks pixels of the image"
        )
    return usable & given


def _check_patches(values: np.ndarray, masked: np.ndarray | None, valid: object) -> None:
    """Raise for patches with pixels that are missing, and for what cannot be dark-field images."""
    if valid is not None or (masked is not None and masked.any()):
        raise ValueError(
            "whole patches were expected, got some with masked pixels; leave those patches out"
        )
    flat = values.reshape(-1, *values.shape[-2:])
    finite = np.isfinite(flat).all((-2, -1))
    if not finite.all():
        raise ValueError(
            f"finite intensities were expected, patch {int(np.argmin(finite))} has pixels that are NaN "
            "or infinite; leave it out"
        )
    low, high = flat.min((-2, -1)), flat.max((-2, -1))
    flawed = (low == high) | (high <= 0)
    if flawed.any():
        first = int(np.argmax(flawed))
        raise ValueError(
            f"patches with contrast and counts above zero were expected, patch {first} has intensities "
            f"from {low[first]} to {high[first]}; leave it out"
        )


def resample_patches(
    inputs: Inputs, known: Mapping[str, object], prior: Prior
) -> Iterator[torch.Tensor]:
    """Bring patches to the pixels of the model.

    Parameters
    ----------
    inputs : Inputs
        Patches of one pixel size.
    known : mapping
        The checked context; its ``sampling`` or that of the coordinates is the pixel size, by default
        that of the model.
    prior : Prior
        Gives the pixels of the model.

    Yields
    ------
    Tensor, shape (patch, y, x)
        Some patches at a time, in single precision.

    Raises
    ------
    ValueError
        If the patches are too small or have several pixel sizes.
    """
    step = _patch_sampling(inputs, known, prior)
    shape, num_pixels = inputs.values.shape[-2:], prior.num_pixels
    as_they_are = shape == (num_pixels, num_pixels) and abs(step / prior.sampling - 1) < 1e-3
    extent = min(shape) * step
    if not as_they_are and extent < num_pixels * prior.sampling * (1 - 1e-6):
        raise ValueError(
            f"patches of at least {num_pixels * prior.sampling:g} Å were expected, got {shape[0]} x "
            f"{shape[1]} pixels of {step:g} Å; cut them wider or check the sampling"
        )
    ratio = prior.sampling / step
    offset = (torch.arange(num_pixels, dtype=torch.float32) - (num_pixels - 1) / 2) * ratio
    along_y, along_x = (interpolation_matrix(offset + (n - 1) / 2, n, ratio) for n in shape)
    flat = inputs.values.reshape(-1, *shape)
    for first in range(0, len(flat), AT_ONCE):
        patches = torch.from_numpy(flat[first : first + AT_ONCE].astype(np.float32))
        yield patches if as_they_are else along_y @ patches @ along_x.mT


def _patch_sampling(inputs: Inputs, known: Mapping[str, object], prior: Prior) -> float:
    """The one pixel size of patches in Å."""
    given = known.get("sampling", inputs.sampling)
    if given is None:
        return prior.sampling
    if isinstance(given, list | torch.distributions.Distribution):
        raise ValueError(
            f"one sampling [Å/px] was expected for patches, got {given}; only the lattice of a micrograph "
            "can tell pixel sizes apart"
        )
    sizes = np.unique(np.asarray(given, float))
    if len(sizes) > 1:
        raise ValueError(
            "one sampling [Å/px] was expected for patches, got several; resample them or call infer for "
            "each"
        )
    return float(sizes[0])
