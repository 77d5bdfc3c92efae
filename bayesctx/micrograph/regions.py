"""Where in an image the crystal is, and where there is vacuum, padding or something amorphous."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .cell import REFLECTIONS
from .intensities import find_constant
from .lattice import Lattice
from .spectrum import flatten, on_pixels

__all__ = ["Crystal", "Region", "find_crystal", "fold_cell", "repeat_cell"]

CORE, EDGE = 1.0, 0.7  # lattice constants, widths of the windows
MAX_CORE, MAX_EDGE = 0.35, 0.6  # of the amplitude of the crystal
CONSTANT = 1.2  # lattice constants, side of a square of pixels of one value
MAX_MEAN = 0.28  # amplitude over a core: vacuum has 0, a crystal of many defects 0.3
MIN_AREA = 2.0  # lattice constants squared: smaller regions are noise
REACH = 2.0  # lattice constants from a core to the edge of its region
MAX_SPREAD = 0.16  # of the amplitude in the crystal; more asks for wider windows
WIDEST = 2.5  # times these widths
BINS = 24  # along each lattice vector; the third shell has 12 bins a period
BLOCKS = 5  # in a lattice constant: where the amplitude is measured
LEAST = 0.3  # of a window that must be valid


@dataclass(frozen=True)
class Region:
    """A part of an image without crystal.

    Attributes
    ----------
    centre : tuple of float
        (y, x) in px.
    area : float
        In px².
    """

    centre: tuple[float, float]
    area: float


@dataclass(frozen=True, eq=False)
class Crystal:
    """Where in an image the crystal is.

    Attributes
    ----------
    present : ndarray of bool, shape (site,)
        Whether the crystal is there; True everywhere if the crystal is not ``visible``.
    pixels : ndarray of bool, shape (y, x)
        The same for every pixel.
    amplitude : ndarray, shape (site,)
        Local amplitude of the lattice over that of the crystal: 0 in vacuum, 1 in the crystal.
    spread : float
        Standard deviation of the amplitude in the crystal, by noise and defects.
    visible : bool
        Whether crystal and vacuum can be told apart at the noise of the image.
    regions : tuple of Region
        Parts without crystal, the largest first.
    """

    present: np.ndarray
    pixels: np.ndarray
    amplitude: np.ndarray
    spread: float
    visible: bool
    regions: tuple[Region, ...]


def find_crystal(image: np.ndarray, lattice: Lattice, positions: np.ndarray) -> Crystal:
    """Find where in an image the crystal is.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, from ``standardize``.
    lattice : Lattice
        Of the image.
    positions : ndarray, shape (site, 2)
        (y, x) in px.

    Returns
    -------
    Crystal
        Of the sites.

    Notes
    -----
    The mean cell of the image, repeated by the lattice, is fitted to the image in a Gaussian window
    around every point. Its amplitude is zero where there is no such crystal: in vacuum, where a
    picture was padded, where the detector is saturated, in amorphous material, in another grain.
    A region starts where the amplitude in a window of a lattice constant is below 0.35, which
    some vacancies side by side do not reach and a hole of three lattice constants across does;
    it ends where the amplitude in a narrower window is 0.6. The windows are wider where noise
    asks for it.
    """
    constant = lattice.lattice_constant
    padding = find_constant(image, CONSTANT * constant)
    image = np.where(padding, np.float32(np.nan), image)
    flat = flatten(image)
    valid = np.isfinite(image)
    perfect = repeat_cell(*fold_cell(flat, valid, lattice))
    step = max(1, int(constant // BLOCKS))

    def measure(width: float) -> tuple[np.ndarray, np.ndarray]:
        return _fit_amplitude(flat, valid, perfect, step, width * constant)

    wider = 1.0
    for _ in range(2):  # noise hides how much of it there is
        core, covered = measure(CORE * wider)
        # where there is vacuum too, the mean cell is fainter than that of the crystal
        reference = _reference(core[covered])
        core = core / reference
        # of the half above the median, where there is no vacuum
        above = core[covered & (core > 1)] - 1
        spread = wider * 1.48 * float(np.median(above)) if len(above) else 0.0
        if wider >= min(spread / MAX_SPREAD, WIDEST):
            break
        wider = min(spread / MAX_SPREAD, WIDEST)
    visible = spread < WIDEST * MAX_SPREAD
    edge, known = measure(EDGE * wider)
    edge = np.where(known, edge / reference, 1.0)
    at = (positions.T + 0.5) / step - 0.5
    amplitude = ndimage.map_coordinates(edge, at, order=1, mode="nearest")
    if not visible:
        every = np.ones(image.shape, bool)
        return Crystal(np.ones(len(positions), bool), every, amplitude, spread, False, ())
    height, width = core.shape
    padding = padding[step // 2 :: step, step // 2 :: step][:height, :width]
    edge = np.where(padding, 0.0, edge)
    cores = _without_defects(((core < MAX_CORE) & covered) | padding, edge)
    labels, regions = _grow(cores, edge < MAX_EDGE, step, constant)
    missing = ndimage.map_coordinates((labels > 0).astype(np.float32), at, order=1, mode="nearest")
    nearest = [
        np.minimum(np.arange(n) // step, m - 1)
        for n, m in zip(image.shape, labels.shape, strict=True)
    ]
    pixels = labels[np.ix_(*nearest)] == 0
    return Crystal(missing < 0.5, pixels, amplitude, spread, True, regions)


def _reference(amplitude: np.ndarray) -> float:
    """Amplitude of the crystal in an image of which part may be vacuum."""
    mean = (amplitude**2).sum() / max(amplitude.sum(), 1e-9)
    crystal = amplitude[amplitude > 0.6 * mean]
    return float(np.median(crystal)) if len(crystal) else 1.0


def _without_defects(core: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Cores whose mean amplitude is that of no crystal, not of one full of defects or of noise."""
    labels, count = ndimage.label(core)
    means = ndimage.mean(amplitude, labels, np.arange(count + 1))
    empty = means < MAX_MEAN
    empty[0] = False
    return empty[labels]


def _grow(
    core: np.ndarray, faint: np.ndarray, step: int, constant: float
) -> tuple[np.ndarray, tuple[Region, ...]]:
    """Regions of faint points around cores, numbered, and their description."""
    near = ndimage.distance_transform_edt(~core) * step < REACH * constant
    # noise leaves specks in amorphous material
    radius = max(1, round(0.7 * constant / step))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    padded = np.pad(core | (faint & near), radius, mode="edge")
    closed = ndimage.binary_closing(padded, y**2 + x**2 <= radius**2)
    labels, count = ndimage.label(closed[radius:-radius, radius:-radius])
    areas = np.bincount(labels.ravel(), minlength=count + 1) * float(step**2)
    kept = np.isin(np.arange(count + 1), labels[core]) & (areas > MIN_AREA * constant**2)
    kept[0] = False
    labels = labels * kept[labels]
    order = [i for i in np.argsort(-areas) if kept[i]]
    centres = ndimage.center_of_mass(labels > 0, labels, order)
    return labels, tuple(
        Region(tuple(float((c + 0.5) * step - 0.5) for c in centre), float(areas[i]))
        for i, centre in zip(order, centres, strict=True)
    )


def fold_cell(
    flat: np.ndarray, valid: np.ndarray, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray]:
    """Average an image over its cells.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.
    valid : ndarray of bool, shape (y, x)
        Pixels to use.
    lattice : Lattice
        Of the image.

    Returns
    -------
    amplitudes : ndarray of complex, shape (reflection,)
        Fourier amplitudes of the mean cell about the origin of the lattice, at ``REFLECTIONS``.
    index : ndarray of int, shape (y, x)
        Place in the cell of every pixel: see ``repeat_cell``.
    """
    y, x = (np.arange(n, dtype=np.float32) for n in flat.shape)
    field = on_pixels(lattice.displacement, lattice.shape)
    away_y = y[:, None] - field[0] - np.float32(lattice.origin[0])
    away_x = x - field[1] - np.float32(lattice.origin[1])
    inverse = np.linalg.inv(lattice.vectors).astype(np.float32) * BINS
    bins = [
        np.rint(away_y * inverse[0, k] + away_x * inverse[1, k]).astype(np.int32) % BINS
        for k in (0, 1)
    ]
    index = bins[0] * BINS + bins[1]
    counts = np.bincount(index[valid], minlength=BINS**2)
    sums = np.bincount(index[valid], flat[valid], minlength=BINS**2)
    cell = np.fft.fft2((sums / np.maximum(counts, 1)).reshape(BINS, BINS)) / BINS**2
    return cell[tuple(REFLECTIONS.T % BINS)], index


def repeat_cell(amplitudes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Repeat the mean cell over the image.

    Parameters
    ----------
    amplitudes : ndarray of complex, shape (reflection,)
        Of the mean cell.
    index : ndarray of int, shape (y, x)
        From ``fold_cell``.

    Returns
    -------
    ndarray of float32, shape (y, x)
        The image of the perfect crystal: the reflections of the first three shells.
    """
    places = np.stack(np.meshgrid(*[np.arange(BINS) / BINS] * 2, indexing="ij"), -1).reshape(-1, 2)
    cell = 2 * (np.exp(2j * np.pi * places @ REFLECTIONS.T) @ amplitudes).real
    return cell.astype(np.float32)[index]


def _fit_amplitude(
    flat: np.ndarray, valid: np.ndarray, perfect: np.ndarray, step: int, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the image of the perfect crystal to an image in a Gaussian window around every point.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.
    valid : ndarray of bool, shape (y, x)
        Pixels to use.
    perfect : ndarray, shape (y, x)
        From ``repeat_cell``.
    step : int
        Pixels between the points, along each side.
    width : float
        Standard deviation of the window in px.

    Returns
    -------
    amplitude : ndarray, shape (point, point)
        Factor of the perfect crystal, beside a constant: zero where it is not there.
    covered : ndarray of bool, shape (point, point)
        Whether 30 % of the window is valid.
    """
    weight = valid.astype(np.float32)
    known, model = flat * weight, perfect * weight

    def window(values: np.ndarray) -> np.ndarray:
        height, length = (n // step * step for n in values.shape)
        blocks = values[:height, :length].reshape(height // step, step, length // step, step)
        return ndimage.gaussian_filter(blocks.mean((1, 3)), width / step, mode="constant")

    share, mean, middle = window(weight), window(known), window(model)
    whole = window(np.ones_like(weight))
    share = np.maximum(share, 1e-6)
    together = window(known * perfect) / share - mean * middle / share**2
    power = window(model * perfect) / share - (middle / share) ** 2
    return together / np.maximum(power, 1e-9), share > LEAST * whole
