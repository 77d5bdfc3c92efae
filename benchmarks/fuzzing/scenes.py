"""Simulated images, and what goes wrong between the sample and the file."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

import bayesctx as bc

from .values import Rng, choose, maybe

__all__ = ["micrograph", "model_of", "patches", "spoil", "truth_of_patches"]

NUM_PATCHES = 32
CONDITIONS = (
    {
        "host": "WSe2",
        "dopant": "Ti",
        "beam_energy": 80e3,
        "convergence_semiangle": 25.0,
        "inner_collection_angle": 60.0,
        "outer_collection_angle": 200.0,
        "defocus": 0.0,
        "dose": 2e5,
    },
    {
        "host": "MoS2",
        "dopant": "V",
        "beam_energy": 60e3,
        "convergence_semiangle": 31.0,
        "inner_collection_angle": 80.0,
        "outer_collection_angle": 250.0,
        "defocus": 20.0,
        "dose": 1e4,
    },
    {
        "host": "MoTe2",
        "dopant": "Nb",
        "beam_energy": 200e3,
        "convergence_semiangle": 22.0,
        "inner_collection_angle": 35.0,
        "outer_collection_angle": 90.0,
        "defocus": -30.0,
        "dose": 9e5,
    },
    {
        "host": "WS2",
        "dopant": "Cr",
        "beam_energy": 100e3,
        "convergence_semiangle": 28.0,
        "inner_collection_angle": 70.0,
        "outer_collection_angle": 180.0,
        "defocus": 5.0,
        "dose": 6e3,
    },
)
SIZES = ((96, 0.25), (112, 0.2), (128, 0.25), (180, 0.15), (256, 0.12), (96, 0.4))


@functools.cache
def micrograph(condition: int, size: int) -> tuple[np.ndarray, dict[str, object]]:
    """A clean image of a doped crystal.

    Parameters
    ----------
    condition, size : int
        Positions in ``CONDITIONS`` and ``SIZES``.

    Returns
    -------
    values : ndarray, shape (y, x)
        Counts in double precision.
    truth : dict
        The context with the pixel size.
    """
    truth, (num_pixels, sampling) = CONDITIONS[condition], SIZES[size]
    prior = bc.reference_prior().given(truth)
    data = bc.simulate_micrograph(
        prior, seed=condition, num_pixels=num_pixels, sampling=sampling, index=size
    )
    return data.intensity.values.astype(np.float64), truth | {"sampling": sampling}


@functools.cache
def patches() -> np.ndarray:
    """Patches that are images of their own.

    Returns
    -------
    ndarray, shape (image, y, x)
        Counts in double precision.
    """
    return _simulated().intensity.values.astype(np.float64)


@functools.cache
def _simulated() -> object:
    """Patches with their truth."""
    return bc.simulate(bc.reference_prior(), NUM_PATCHES, seed=1)


def truth_of_patches(images: np.ndarray) -> dict[str, np.ndarray]:
    """Context of some patches.

    Parameters
    ----------
    images : ndarray of int
        Their positions among ``patches``.

    Returns
    -------
    dict of str to ndarray, shape (image,)
        By the names of the context.
    """
    data = _simulated()
    return {n: data[n].values[images] for n in bc.CONTEXT if n != "sampling"}


@functools.cache
def model_of(kind: str) -> bc.DefectModel:
    """A model.

    Parameters
    ----------
    kind : str
        "reference", or "small" for one with few random weights.

    Returns
    -------
    DefectModel
        The same one each time.
    """
    if kind == "reference":
        return bc.load_model()
    small = bc.DefectModel(
        bc.reference_prior(), num_features=6, num_components=2, hidden=16, width=8
    )
    with torch.no_grad():  # untrained densities hardly differ between hypotheses: spread them
        for parameter in small.likelihood.parameters():
            parameter *= 3
    return small.eval()


def spoil(rng: Rng, image: np.ndarray) -> tuple[np.ndarray, str]:
    """Do to an image what goes wrong between the sample and the file, up to three times.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    image : ndarray, shape (y, x)
        In double precision.

    Returns
    -------
    image : ndarray
        Often of another shape.
    text : str
        What was done.
    """
    done = []
    for _ in range(int(choose(rng, (0, 0, 1, 1, 1, 2, 2, 3)))):
        name = str(choose(rng, list(SPOILERS)))
        with np.errstate(all="ignore"):
            image = np.asarray(SPOILERS[name](rng, image), np.float64)
        done.append(name)
        if image.ndim != 2 or min(image.shape) < 2:
            break
    return image, ", ".join(done) or "clean"


def _part(rng: Rng, image: np.ndarray) -> np.ndarray:
    """A rectangle or disc of an image, as an array of bool."""
    y, x = np.indices(image.shape)
    centre = rng.random(2) * image.shape
    if maybe(rng, 0.5):
        radius = rng.uniform(0.05, 0.5) * min(image.shape)
        return np.hypot(y - centre[0], x - centre[1]) < radius
    angle = rng.uniform(0, 2 * math.pi)
    return (y - centre[0]) * math.sin(angle) + (x - centre[1]) * math.cos(angle) > 0


def _replaced(rng: Rng, image: np.ndarray, where: np.ndarray, value: object) -> np.ndarray:
    """An image with other values in a part of it."""
    changed = image.copy()
    changed[where] = value
    return changed


def _vacuum(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Noise of a low level in the place of a part of the crystal."""
    level = np.quantile(image[np.isfinite(image)], 0.02) if np.isfinite(image).any() else 0.0
    noise = level + 0.1 * abs(level) * rng.standard_normal(image.shape)
    return np.where(_part(rng, image), noise, image)


def _grains(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Two grains that meet along a line."""
    turned = ndimage.rotate(image, rng.uniform(5, 55), reshape=False, order=1, mode="reflect")
    return np.where(_part(rng, image), turned, image)


def _deformed(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Sheared, scaled and turned."""
    matrix = np.eye(2) + rng.uniform(-0.15, 0.15, (2, 2))
    return ndimage.affine_transform(image, matrix, order=1, mode="reflect")


def _stretched(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Pixels that are not square."""
    return ndimage.zoom(image, (rng.uniform(0.5, 1.5), 1.0), order=1)


def _cropped(rng: Rng, image: np.ndarray) -> np.ndarray:
    """A part of any size, down to one pixel."""
    size = [max(1, int(n * rng.uniform(0.01, 1.0))) for n in image.shape]
    return image[: size[0], : size[1]]


def _padded(rng: Rng, image: np.ndarray) -> np.ndarray:
    """A border of a constant."""
    width = [tuple(int(v) for v in rng.integers(0, 40, 2)) for _ in range(2)]
    value = choose(rng, (0.0, np.nan, float(np.nanmax(image, initial=0.0)), -1.0))
    return np.pad(image, width, constant_values=value)


def _hot(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Some pixels far above or below the others."""
    changed, count = image.copy(), int(rng.integers(1, 30))
    where = tuple(rng.integers(0, n, count) for n in image.shape)
    peak = float(np.nanmax(np.abs(image), initial=1.0))
    changed[where] = peak * choose(rng, (10.0, 1e3, 1e6, 1e12, -10.0, 0.0))
    return changed


def _flawed(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Not numbers, or without a limit, in a part, some pixels, some rows, or everywhere."""
    value = choose(rng, (np.nan, np.inf, -np.inf))
    where = choose(
        rng, (_part(rng, image), rng.random(image.shape) < 0.01, np.ones(image.shape, bool))
    )
    if maybe(rng, 0.3):
        where = np.zeros(image.shape, bool)
        where[:: int(rng.integers(2, 20))] = True
    return _replaced(rng, image, where, value)


def _pattern(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Something that is no crystal."""
    y, x = np.indices(image.shape)
    period = rng.uniform(2.5, 40)
    kinds = (
        lambda: rng.standard_normal(image.shape),
        lambda: rng.poisson(rng.uniform(0.001, 10), image.shape),
        lambda: np.sin(2 * math.pi * (x + rng.uniform(-1, 1) * y) / period),
        lambda: np.sin(2 * math.pi * x / period) * np.sin(2 * math.pi * y / period),
        lambda: x + rng.uniform(-1, 1) * y,
        lambda: np.full(image.shape, choose(rng, (0.0, 1.0, -1.0, 1e300))),
        lambda: (x // 8 + y // 8) % 2,
        lambda: np.hypot(x - 40, y - 40),
        lambda: np.arange(image.size).reshape(image.shape),
        lambda: rng.standard_cauchy(image.shape),
        lambda: np.eye(*image.shape),
    )
    return choose(rng, kinds)()


def _scaled(rng: Rng, image: np.ndarray) -> np.ndarray:
    """In another unit, with another offset."""
    factor = 10.0 ** rng.uniform(-300, 300) if maybe(rng, 0.5) else 10.0 ** rng.uniform(-20, 20)
    spread = float(np.nanstd(image)) if np.isfinite(image).all() else 1.0
    offset = spread * choose(rng, (0.0, 0.0, 1.0, 1e3, 1e7, -1e3, 1e15))
    return (image + offset) * factor


def _marked(rng: Rng, image: np.ndarray) -> np.ndarray:
    """A scale bar burnt in."""
    changed, (height, width) = image.copy(), image.shape
    top = max(0, height - height // 10 - 2)
    changed[top : top + max(2, height // 30), 3 : 3 + width // 3] = np.nanmax(image, initial=1.0)
    return changed


SPOILERS: dict[str, Callable[[Rng, np.ndarray], np.ndarray]] = {
    "inverted": lambda rng, image: np.nanmax(image, initial=0.0) - image,
    "negative": lambda rng, image: -image,
    "clipped": lambda rng, image: image.clip(*np.nanquantile(image, sorted(rng.random(2)))),
    "gamma": lambda rng, image: np.sign(image) * np.abs(image) ** rng.uniform(0.1, 4),
    "hot pixels": _hot,
    "scale bar": _marked,
    "vacuum": _vacuum,
    "hole of zeros": lambda rng, image: _replaced(rng, image, _part(rng, image), 0.0),
    "padded": _padded,
    "cropped": _cropped,
    "cropped a little": lambda rng, image: image[: max(2, int(0.8 * len(image)))],
    "stretched": _stretched,
    "deformed": _deformed,
    "two grains": _grains,
    "not finite": _flawed,
    "another pattern": _pattern,
    "scaled": _scaled,
    "quantised": lambda rng, image: np.floor(
        image / max(float(np.nanstd(image)), 1e-300) * rng.uniform(0.3, 3)
    ),
    "transposed": lambda rng, image: image.T,
    "noisy": lambda rng, image: (
        image + rng.uniform(0.1, 30) * float(np.nanstd(image)) * rng.standard_normal(image.shape)
    ),
    "gradient": lambda rng, image: image * np.linspace(rng.uniform(-1, 1), 1, image.shape[1]),
    "blurred": lambda rng, image: ndimage.gaussian_filter(image, rng.uniform(1, 20)),
    "dead rows": lambda rng, image: _replaced(rng, image, (rng.integers(0, len(image), 5),), 0.0),
    "repeated": lambda rng, image: np.repeat(image, 2, int(rng.integers(2)))[:400, :400],
    "stack": lambda rng, image: np.stack(
        [image] * int(rng.integers(1, 5)), int(rng.integers(0, 3))
    ),
}
