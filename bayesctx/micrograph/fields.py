"""Fields on nodes spread over an image, and the local amplitude of waves in it."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import RectBivariateSpline

__all__ = ["count_nodes", "lock_in", "node_coordinates", "on_pixels", "splines"]


def count_nodes(shape: tuple[int, int], spacing: float) -> tuple[int, int]:
    """Count the nodes along each side of an image: enough for a cubic spline.

    Parameters
    ----------
    shape : tuple of int
        Pixels (y, x) of the image.
    spacing : float
        Largest distance of two nodes in px.

    Returns
    -------
    tuple of int
        Along y and x.
    """
    return tuple(max(3, math.ceil((n - 1) / spacing)) + 1 for n in shape)


def node_coordinates(
    shape: tuple[int, int], num_nodes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """List where the nodes are.

    Parameters
    ----------
    shape : tuple of int
        Pixels (y, x) of the image.
    num_nodes : tuple of int
        From ``count_nodes``.

    Returns
    -------
    tuple of ndarray
        Along y and x in px.
    """
    return tuple(np.linspace(0, n - 1, num) for n, num in zip(shape, num_nodes, strict=True))


def splines(values: np.ndarray, shape: tuple[int, int]) -> list[RectBivariateSpline]:
    """Interpolate values on the nodes by cubic splines.

    Parameters
    ----------
    values : ndarray, shape (component, node, node)
        Of the field.
    shape : tuple of int
        Pixels (y, x) of the image.

    Returns
    -------
    list of RectBivariateSpline
        One per component, of (y, x) in px.
    """
    return [RectBivariateSpline(*node_coordinates(shape, v.shape), v) for v in values]


def on_pixels(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate values on the nodes to the pixels of an image.

    Parameters
    ----------
    values : ndarray, shape (component, node, node)
        Of the field.
    shape : tuple of int
        Pixels (y, x) of the image.

    Returns
    -------
    ndarray of float32, shape (component, y, x)
        The field.
    """
    return np.stack(
        [spline(*map(np.arange, shape)).astype(np.float32) for spline in splines(values, shape)]
    )


def lock_in(
    flat: np.ndarray, wave: np.ndarray, num_nodes: tuple[int, int], width: float
) -> np.ndarray:
    """Measure the complex amplitude of a wave in a Gaussian window around every node.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        Image without background.
    wave : ndarray, shape (2,)
        Spatial frequency (y, x) in cycles per px.
    num_nodes : tuple of int
        From ``count_nodes``.
    width : float
        Standard deviation of the window in px.

    Returns
    -------
    ndarray of complex64, shape (node, node)
        The amplitude.
    """
    windows = []
    for n, q, centre in zip(flat.shape, wave, node_coordinates(flat.shape, num_nodes), strict=True):
        weights = np.exp(-((np.arange(n) - centre[:, None]) ** 2) / (2 * width**2))
        weights = weights / weights.sum(-1, keepdims=True) * np.exp(-2j * np.pi * q * np.arange(n))
        windows.append(weights.astype(np.complex64))
    return windows[0] @ flat @ windows[1].T
