"""The lattice of an image: its mean cell and how the scan distorts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from .cell import MIN_CELLS, REFLECTIONS, cell_constant, find_axis, orient
from .indexing import check_cell, index_spectrum
from .intensities import find_constant, standardize
from .spectrum import (
    TILE,
    count_nodes,
    flatten,
    lock_in,
    node_coordinates,
    on_pixels,
    splines,
)

__all__ = ["Lattice", "fit_lattice"]

HIGHEST = 0.48  # cycles per px, of the reflections that are used
CELLS_PER_WINDOW = 3.0  # lattice constants, standard deviation of the windows for phases


@dataclass(frozen=True, eq=False)
class Lattice:
    """The crystal lattice of an image: its mean cell and how the scan distorts it.

    Attributes
    ----------
    vectors : ndarray, shape (2, 2)
        Lattice vectors in px as rows (y, x), about 60 degrees apart.
    origin : ndarray, shape (2,)
        A site of sublattice 0 of the undistorted lattice in px, (y, x).
    displacement : ndarray, shape (2, node, node)
        Shift (y, x) in px of the lattice on nodes from the first to the last pixel, equally spaced
        along each side.
    shape : tuple of int
        Pixels (y, x) of the image.
    signal_to_noise : float
        Power of the first-order reflections over the background around them; 14 is the least that
        is taken for a lattice.
    symmetry : float
        Three-fold symmetry of the mean cell about the origin: 1 if perfect; below 0.4 the probe is
        so aberrated that the origin is doubtful.
    """

    vectors: np.ndarray
    origin: np.ndarray
    displacement: np.ndarray
    shape: tuple[int, int]
    signal_to_noise: float
    symmetry: float

    @property
    def lattice_constant(self) -> float:
        """Edge of the hexagonal cell of the same area in px."""
        return cell_constant(self.vectors)

    def displacement_at(self, positions: np.ndarray) -> np.ndarray:
        """Displacement anywhere in the image, and beyond its border that of the border.

        Parameters
        ----------
        positions : ndarray, shape (position, 2)
            (y, x) in px.

        Returns
        -------
        ndarray, shape (position, 2)
            Shift (y, x) in px.
        """
        return np.stack(
            [spline.ev(*positions.T) for spline in splines(self.displacement, self.shape)], -1
        )


def fit_lattice(image: np.ndarray, valid: np.ndarray | None = None) -> Lattice:
    """Find the hexagonal lattice of an image and how the scan distorts it.

    Parameters
    ----------
    image : ndarray or masked array, shape (y, x)
        Intensities in any unit, at least six lattice constants of 5 to 60 px along each side.
        Pixels that are masked, NaN or infinite are left out.
    valid : ndarray of bool, shape (y, x), optional
        False at pixels to leave out as well; their values change nothing.

    Returns
    -------
    Lattice
        Sublattice 0 is the brightest; which one is the metal is left open.

    Raises
    ------
    TypeError, ValueError
        See ``check_image``; and if there is no hexagonal lattice in the image, too little of it,
        or one that is hexagonal only if pixels are not square.

    Notes
    -----
    The power spectrum gives the cell. The image is sum_g F_g exp(2 pi i g.(r - u(r))): phases of
    its reflections in windows give the displacement u. The sites are the 3-fold axes of the cell,
    about which F_g is most symmetric. Coma moves them all by up to some 0.2 Å; where defocus turns
    the contrast of some reflections around, they are lost (``symmetry``).

    References
    ----------
    Hÿtch, Snoeck and Kilaas, Ultramicroscopy 74, 131 (1998), doi:10.1016/S0304-3991(98)00035-7.
    """
    image = standardize(image, valid)
    # the edge of what is padded or saturated has power at all frequencies
    image[find_constant(image, min(image.shape) / 2 / MIN_CELLS)] = np.nan
    flat = flatten(image)
    basis, signal_to_noise = index_spectrum(flat)
    constant = cell_constant(np.linalg.inv(basis))
    # noise asks for windows in which the phase of a reflection is known to 0.1 rad
    side = min(*image.shape, TILE)
    width = max(CELLS_PER_WINDOW * constant, min(1.3 * side / math.sqrt(signal_to_noise), side / 3))
    displacement = np.zeros((2, *count_nodes(image.shape, width)))
    for _ in range(2):
        displacement, _ = _measure_displacement(flat, basis, displacement, width)
        basis, displacement = _remove_strain(basis, displacement, image.shape)
    displacement, amplitudes = _measure_displacement(flat, basis, displacement, width)
    basis, amplitudes = orient(basis, amplitudes)
    vectors = np.linalg.inv(basis).T
    check_cell(vectors)
    axis, symmetry = find_axis(amplitudes)
    return Lattice(vectors, axis @ vectors, displacement, image.shape, signal_to_noise, symmetry)


def _measure_displacement(
    flat: np.ndarray, basis: np.ndarray, displacement: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement on the nodes from a guess of it, and amplitudes of the reflections."""
    waves = REFLECTIONS @ basis
    guess = on_pixels(displacement, flat.shape) if displacement.any() else None
    fields = np.zeros((len(waves), *displacement.shape[1:]), complex)
    for field, wave in zip(fields, waves, strict=True):
        if np.abs(wave).max() < HIGHEST:
            straight = flat if guess is None else _turn_back(flat, wave, guess)
            field[:] = lock_in(straight, wave, field.shape, width)
    rest = _integrate(fields, waves)
    straight = fields * np.exp(2j * np.pi * np.einsum("ki,iyx->kyx", waves, rest))
    return displacement + rest, straight.mean((1, 2))


def _turn_back(flat: np.ndarray, wave: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Image times the phase that a displacement takes from a wave."""
    turn = np.tensordot((2 * np.pi * wave).astype(np.float32), displacement, 1)
    turned = np.empty(flat.shape, np.complex64)
    np.multiply(flat, np.cos(turn), out=turned.real)
    np.multiply(flat, np.sin(turn), out=turned.imag)
    return turned


def _integrate(fields: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Displacement whose phases -2 pi g.u follow those of the fields from node to node."""
    num_nodes = fields.shape[1:]
    index = np.arange(math.prod(num_nodes)).reshape(num_nodes)
    start = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    end = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    fields = fields.reshape(len(fields), -1)
    step = fields[:, end] * fields[:, start].conj()
    normal = np.einsum("ke,ki,kj->eij", np.abs(step), waves, waves)
    right = np.einsum("ke,ki->ei", np.abs(step) * np.angle(step) / (-2 * np.pi), waves)
    weight = np.trace(normal, axis1=1, axis2=2)
    rise = np.linalg.solve(normal + 1e-4 * weight.mean() * np.eye(2), right[..., None])[..., 0]
    edge, ones = np.arange(len(start)), np.ones(len(start))
    at = (np.concatenate([edge, edge]), np.concatenate([start, end]))
    gradient = sparse.csc_array((np.concatenate([-ones, ones]), at))
    weighted = gradient.T * weight
    # the small term holds what no reflection reaches, such as vacuum
    laplacian = weighted @ gradient + 1e-6 * weight.mean() * sparse.eye_array(index.size)
    return splu(laplacian.tocsc()).solve(weighted @ rise).T.reshape(2, *num_nodes)


def _remove_strain(
    basis: np.ndarray, displacement: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal vectors with the affine part of a displacement field, and the rest of it."""
    y, x = node_coordinates(shape, displacement.shape[1:])
    plane = np.stack(np.broadcast_arrays(1.0, y[:, None], x), -1).reshape(-1, 3)
    values = displacement.reshape(2, -1).T
    slope = np.linalg.lstsq(plane, values, rcond=None)[0]
    # g.(r - c - B r - v) = g (1 - B).(r - (1 - B)^-1 (c + v)), and c is a matter of the origin
    linear = np.eye(2) - slope[1:].T
    return basis @ linear, np.linalg.solve(linear, (values - plane @ slope).T).reshape(
        displacement.shape
    )
