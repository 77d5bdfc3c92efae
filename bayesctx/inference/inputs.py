"""What was handed to ``infer``: values, layout, valid pixels and pixel size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from ..context import CONTEXT
from ..files.units import ANGSTROM, remedy_of_size
from ..micrograph import check_image
from ..prior import Prior
from ..storage import warn
from ..tensors import interpolation_matrix

__all__ = ["SEVERAL", "Inputs", "patch_sampling", "pixel_size", "read_inputs", "resample_patches"]

LAYOUTS = {2: ("y", "x"), 3: ("patch", "y", "x"), 4: ("image", "patch", "y", "x")}
SEVERAL = ("detector", "y", "x")  # one scan, recorded by several detectors
NAMED = (SEVERAL, ("image", "y", "x"), *LAYOUTS.values())
AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
LEAST_CONTRAST = 0.01  # of the largest value: single precision has 5 digits of it
LARGEST = 1e6  # contrast in single precision, and one over the least, whose squares lose nothing
LARGEST_PATCH = 4  # widths of the patch of the model; what is larger is a micrograph


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
        Intensities: (detector, y, x) of a micrograph as handed in, (image, patch, y, x) of patches
        in double precision.
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
        Pixels of a micrograph that are part of the image; masked or not finite ones are not.
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
    observed, masked = _as_array(image)
    dims = _dimensions(image, observed)
    if not observed.size:
        raise ValueError(
            f"at least one image was expected, got an array of shape {observed.shape}; "
            "pass one with pixels"
        )
    spacing = pixel_size(image) if isinstance(image, xr.DataArray) else None
    step = sampling if isinstance(sampling, float) else spacing
    largest = LARGEST_PATCH * (num_pixels if step is None else max(patch_extent / step, 1.0))
    is_one = dims in (SEVERAL, SEVERAL[1:])
    if not is_one and max(observed.shape[-2:]) > largest:
        raise ValueError(
            f"patches of at most {largest:.0f} pixels a side were expected, got {observed.shape} "
            f"with dimensions {dims}; these are whole micrographs: sum the frames of a series or "
            "call infer for each image"
        )
    if is_one and max(observed.shape[-2:]) > num_pixels:
        each = observed.reshape(-1, *observed.shape[-2:])
        usable = _valid_pixels(each, masked, valid)
        for values in each:
            check_image(values, usable)
        return Inputs(dims, observed, each, usable, spacing, True)
    if dims == SEVERAL:
        raise ValueError(
            f"a micrograph of more than {num_pixels} pixels a side was expected of several "
            f"detectors, got {observed.shape[1:]}; pass patches of each detector"
        )
    values = observed.astype(np.float64)
    _check_patches(values, masked, valid)
    shape = {(): (1, 1), ("patch",): (1, -1), ("image",): (-1, 1)}.get(dims[:-2], values.shape[:2])
    patches = values.reshape(*shape, *values.shape[-2:])
    return Inputs(dims, observed, patches, None, spacing, False)


def _as_array(image: object) -> tuple[np.ndarray, np.ndarray | None]:
    """Values as a real array, and which of them a mask marks as invalid."""
    if isinstance(image, xr.Dataset):
        names = [str(n) for n, v in image.data_vars.items() if v.dims[-2:] == ("y", "x")]
        raise TypeError(
            f"an image was expected, got a Dataset with the images {names}; pass one of them, "
            f"for example data[{(names or ['intensity'])[0]!r}]"
        )
    try:
        held = image.data if isinstance(image, xr.DataArray) else image
        if isinstance(held, torch.Tensor):
            held = held.detach().cpu()
            held = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
        masked = np.ma.getmaskarray(held) if isinstance(held, np.ma.MaskedArray) else None
        array = np.asarray(held)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise TypeError(
            f"an array of numbers in memory was expected as the image, got {type(image).__name__} "
            f"({' '.join(str(error).split())[:120]}); pass a DataArray or a numpy array"
        ) from error
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"an image of real numbers was expected, got {type(image).__name__} of {array.dtype}; "
            "pass the recorded counts"
        )
    # netCDF stores neither half nor extended precision
    stored = {np.dtype(np.float16): np.float32, np.dtype(np.longdouble): np.float64}
    with np.errstate(over="ignore"):
        return array.astype(stored.get(array.dtype, array.dtype), copy=False), masked


def _dimensions(image: object, values: np.ndarray) -> tuple[str, ...]:
    """Names of the dimensions, those of a plain array by their number."""
    named = isinstance(image, xr.DataArray)
    if not named and values.ndim == 3 and values.shape[-1] in (3, 4):
        check_image(values)  # refuses colours
    dims = tuple(map(str, image.dims)) if named else LAYOUTS.get(values.ndim)
    if dims not in NAMED:
        raise ValueError(
            "dimensions (y, x), (detector, y, x), (patch, y, x), (image, y, x) or (image, patch, "
            f"y, x) were expected, got {str(dims or values.shape)[:80]}; transpose the image or "
            "rename its dimensions"
        )
    return dims


def _valid_pixels(values: np.ndarray, masked: np.ndarray | None, valid: object) -> np.ndarray:
    """Pixels of a micrograph that are part of the image on all detectors, shape (y, x)."""
    usable = np.isfinite(values).all(0)
    if masked is not None:
        usable &= ~masked.reshape(values.shape).any(0)
    if valid is not None:
        usable &= _as_mask(valid, usable.shape)
    if not usable.any():
        raise ValueError(
            f"valid pixels were expected, all {usable.size} are masked or not finite; "
            "check the mask"
        )
    return usable


def _as_mask(valid: object, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels that the user marked as part of the image."""
    try:
        given = np.asarray(valid)
    except (TypeError, ValueError, RuntimeError):  # a ragged list, a tensor on no device
        given = np.array(None)
    if given.dtype != bool or given.shape != shape:
        raise ValueError(
            f"valid was expected as an array of bool of shape {shape}, got {type(valid).__name__} "
            f"of {given.dtype} of shape {given.shape}; True marks pixels of the image"
        )
    return given


def _check_patches(values: np.ndarray, masked: np.ndarray | None, valid: object) -> None:
    """Raise for patches with pixels that are missing, and for what cannot be dark-field images."""
    if valid is not None:
        raise ValueError(
            "a micrograph (y, x) was expected where valid is given, got patches; leave valid out"
        )
    if masked is not None and masked.any():
        raise ValueError(
            "whole patches were expected, got some with masked pixels; leave those patches out"
        )
    flat = values.reshape(-1, *values.shape[-2:])
    finite = np.isfinite(flat).all((-2, -1))
    if not finite.all():
        raise ValueError(
            f"finite intensities were expected, patch {int(np.argmin(finite))} has pixels that are "
            "NaN or infinite; leave it out"
        )
    low, high = flat.min((-2, -1)), flat.max((-2, -1))
    flawed = (low == high) | (high <= 0)
    if flawed.any():
        first = int(np.argmax(flawed))
        raise ValueError(
            f"patches with contrast and counts above zero were expected, patch {first} has "
            f"intensities from {low[first]} to {high[first]}; leave it out"
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
        The checked context; its ``sampling`` or that of the coordinates is the pixel size, by
        default that of the model.
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
    step = patch_sampling(inputs, known, prior)
    shape, num_pixels = inputs.values.shape[-2:], prior.num_pixels
    as_they_are = shape == (num_pixels, num_pixels) and abs(step / prior.sampling - 1) < 1e-3
    extent = min(shape) * step
    if not as_they_are and extent < num_pixels * prior.sampling * (1 - 1e-6):
        raise ValueError(
            f"patches of at least {num_pixels * prior.sampling:g} Å were expected, got "
            f"{shape[0]} x {shape[1]} pixels of {step:g} Å; cut them wider or check the sampling"
        )
    ratio = prior.sampling / step
    offset = (torch.arange(num_pixels, dtype=torch.float32) - (num_pixels - 1) / 2) * ratio
    along_y, along_x = (interpolation_matrix(offset + (n - 1) / 2, n, ratio) for n in shape)
    flat = inputs.values.reshape(-1, *shape)
    for first in range(0, len(flat), AT_ONCE):
        patches = torch.from_numpy(_in_single_precision(flat[first : first + AT_ONCE]))
        yield patches if as_they_are else along_y @ patches @ along_x.mT


def _in_single_precision(patches: np.ndarray) -> np.ndarray:
    """Patches whose contrast single precision cannot hold centred and scaled, others as they are.

    Counts with a usual gain are kept, since the exact model needs them.
    """
    peak = np.abs(patches).max((-2, -1), keepdims=True)
    unit = np.ldexp(patches, -np.frexp(peak)[1])  # exact: an offset may leave few digits
    centred = unit - unit.mean((-2, -1), keepdims=True)
    spread = centred.std((-2, -1), keepdims=True)
    fits = (spread > LEAST_CONTRAST) & (peak * spread > 1 / LARGEST) & (peak < LARGEST**2)
    return np.where(fits, patches, centred / spread).astype(np.float32)


def patch_sampling(inputs: Inputs, known: Mapping[str, object], prior: Prior) -> float:
    """Find the one pixel size of patches.

    Parameters
    ----------
    inputs : Inputs
        The patches.
    known : mapping
        The checked context.
    prior : Prior
        Of the model, whose pixel size is taken where none is stated.

    Returns
    -------
    float
        In Å.

    Raises
    ------
    ValueError
        If several pixel sizes are possible.
    """
    given = known.get("sampling", inputs.sampling)
    if given is None:
        return prior.sampling
    if isinstance(given, list | torch.distributions.Distribution):
        raise ValueError(
            "one sampling [Å/px] was expected for patches, got several; "
            "only the lattice of a micrograph can tell pixel sizes apart"
        )
    sizes = np.unique(np.asarray(given, float))
    if len(sizes) > 1:
        raise ValueError(
            "one sampling [Å/px] was expected for patches, got several; resample them or call "
            "infer for each"
        )
    return float(sizes[0])


UNEQUAL = 0.002  # relative difference of two spacings that rounding does not explain
PIXEL_UNITS = ("", "1", "px", "pixel", "pixels", "index")


def pixel_size(image: xr.DataArray) -> float | None:
    """Read the size of a pixel off the coordinates y and x.

    Parameters
    ----------
    image : DataArray
        Its coordinates may have an attribute ``units``.

    Returns
    -------
    float or None
        In Å; None where there are no coordinates, or positions in pixels.

    Raises
    ------
    ValueError
        If the coordinates are not numbers, not equally spaced, of another unit than of length, or
        not those of square pixels of a size that the package covers.

    Warns
    -----
    UserWarning
        If the spacing is not one, and there is no unit.
    """
    found = [_spacing(image, a) for a in ("y", "x") if a in image.coords and image.sizes[a] > 1]
    if not found:
        return None
    sizes, units = zip(*found, strict=True)
    if len(set(map(str.lower, units))) > 1 or max(sizes) > (1 + UNEQUAL) * min(sizes):
        text = " and ".join(f"{size:g} {unit}" for size, unit in found)
        raise ValueError(f"square pixels were expected, got {text}; resample the image")
    size, unit = found[0]
    if unit.lower() in PIXEL_UNITS:
        if unit == "" and not math.isclose(size, 1.0, rel_tol=UNEQUAL):
            warn(
                f"the coordinates of the image have a spacing of {size:g} and no unit, so they are "
                "not used; set their attribute 'units' or give sampling [Å/px]"
            )
        return None
    if unit.lower() not in ANGSTROM:
        raise ValueError(
            f"coordinates in a unit of length were expected, got {unit[:40]!r}; known are "
            f"{', '.join(ANGSTROM)}"
        )
    low, high = CONTEXT["sampling"].domain
    sampling = size * ANGSTROM[unit.lower()]
    if not low * (1 - UNEQUAL) <= sampling <= high * (1 + UNEQUAL):
        raise ValueError(
            f"pixels of {low:g} to {high:g} Å were expected, the coordinates state {size:g} "
            f"{unit}; {remedy_of_size(sampling)}, or correct the coordinates and their unit"
        )
    return sampling


def _spacing(image: xr.DataArray, axis: str) -> tuple[float, str]:
    """Spacing of a coordinate and its unit."""
    places = np.asarray(image[axis].values)
    if places.dtype.kind not in "iuf":
        raise ValueError(
            f"coordinates that are numbers were expected along {axis}, got values of "
            f"{places.dtype}; drop the coordinate or write positions"
        )
    places = places.astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(
            f"finite coordinates were expected along {axis}, got some that are not; "
            "drop the coordinate"
        )
    step = np.diff(places)
    mean = abs(step.mean())
    if not 0 < mean < np.inf or np.ptp(step) > UNEQUAL * mean:
        raise ValueError(
            f"equally spaced coordinates were expected along {axis}, got steps from "
            f"{step.min():g} to {step.max():g}; resample the image or drop the coordinate"
        )
    return float(mean), str(image[axis].attrs.get("units", "")).strip()
