"""The lattice of an image: its mean cell and how the scan distorts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from .fields import count_nodes, lock_in, node_coordinates, on_pixels, splines
from .spectrum import MIN_CELLS, REFLECTIONS, SHELLS, TILE, flatten, search_spectrum

__all__ = ["Lattice", "check_image", "fit_lattice"]

HIGHEST = 0.48  # cycles per px
CELLS_PER_WINDOW = (
    3.0  # standard deviation of the window in which phases are measured, in lattice constants
)


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
        Shift (y, x) in px of the lattice on nodes from the first to the last pixel, equally spaced along each side.
    shape : tuple of int
        Pixels (y, x) of the image.
    signal_to_noise : float
        Power of the first-order reflections over the background around them; 14 is the least that is taken for a lattice.
    symmetry : float
        Three-fold symmetry of the mean cell about the origin: 1 if perfect; below 0.4 the probe is so aberrated that the
        origin is doubtful.
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
        return math.sqrt(abs(np.linalg.det(self.vectors)) * 2 / math.sqrt(3))

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


def check_image(values: np.ndarray) -> None:
    """Check that an array can be an annular dark-field image.

    Parameters
    ----------
    values : ndarray, shape (y, x)
        Intensities in any unit.

    Raises
    ------
    TypeError
        If the values are not real numbers.
    ValueError
        If they are not one image, too few, not finite, constant or nowhere positive.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iuf":
        raise TypeError(
            f"an image of real numbers was expected, got an array of {values.dtype}; pass the recorded counts"
        )
    if values.ndim == 3 and (values.shape[-1] in (3, 4) or values.shape[0] in (3, 4)):
        raise ValueError(
            f"an image (y, x) was expected, got shape {values.shape}, as of colours; pass the data of one detector"
        )
    if values.ndim != 2:
        raise ValueError(
            f"an image (y, x) was expected, got shape {values.shape}; pass one frame of one detector"
        )
    if min(values.shape) < 5 * MIN_CELLS:
        raise ValueError(
            f"{5 * MIN_CELLS} pixels a side or more were expected, got {values.shape}; pass an image, not a patch"
        )
    num_bad = values.size - int(np.isfinite(values).sum())
    if num_bad:
        raise ValueError(
            f"finite intensities were expected, got {num_bad} pixels NaN or infinite; crop or repair them"
        )
    low, high = values.min(), values.max()
    if low == high:
        raise ValueError(
            f"an image was expected, got {low} in every pixel; check the detector and the file"
        )
    if high <= 0:
        raise ValueError(
            f"counts were expected, got nothing above zero ({low} to {high}); undo an inversion or subtraction"
        )


def fit_lattice(image: np.ndarray) -> Lattice:
    """Find the hexagonal lattice of an image and how the scan distorts it.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities in any unit, at least six lattice constants of 5 to 60 px along each side.

    Returns
    -------
    Lattice
        Sublattice 0 is the brightest; which one is the metal is left open.

    Raises
    ------
    TypeError, ValueError
        See ``check_image``; and if there is no hexagonal lattice in the image, or too little of it.

    Notes
    -----
    The power spectrum gives the cell. The image is sum_g F_g exp(2 pi i g.(r - u(r))): phases of its reflections in
    windows give the displacement u. The sites are the 3-fold axes of the cell: the points about which F_g is most
    symmetric. Coma moves them all by up to some 0.2 Å; where defocus turns the contrast of some reflections around, they
    are lost (``symmetry``).

    References
    ----------
    Hÿtch, Snoeck and Kilaas, Ultramicroscopy 74, 131 (1998), doi:10.1016/S0304-3991(98)00035-7.
    """
    image = np.asarray(image)
    check_image(image)
    flat = flatten(image)
    basis, signal_to_noise = search_spectrum(flat)
    constant = math.sqrt(2 / math.sqrt(3) / abs(np.linalg.det(basis)))
    side = min(image.shape)
    if side < MIN_CELLS * constant:
        raise ValueError(
            f"at least {MIN_CELLS} lattice constants along each side were expected, got {side / constant:.1f} "
            f"({constant:.1f} px in {image.shape[0]} x {image.shape[1]}); record a larger field of view"
        )
    # noise asks for windows in which the phase of a reflection is known to 0.1 rad
    side = min(side, TILE)
    width = max(CELLS_PER_WINDOW * constant, min(1.3 * side / math.sqrt(signal_to_noise), side / 3))
    displacement = np.zeros((2, *count_nodes(image.shape, width)))
    for _ in range(2):
        displacement, _ = _measure_displacement(flat, basis, displacement, width)
        basis, displacement = _remove_strain(basis, displacement, image.shape)
    displacement, amplitudes = _measure_displacement(flat, basis, displacement, width)
    basis, amplitudes = _orient(basis, amplitudes)
    vectors = np.linalg.inv(basis).T
    axis, symmetry = _find_axis(amplitudes)
    return Lattice(vectors, axis @ vectors, displacement, image.shape, signal_to_noise, symmetry)


def _measure_displacement(
    flat: np.ndarray, basis: np.ndarray, displacement: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Displacement on the nodes from a first guess of it, and the amplitudes of the reflections (0 beyond Nyquist)."""
    waves = REFLECTIONS @ basis
    guess = on_pixels(displacement, flat.shape)
    fields = np.zeros((len(waves), *displacement.shape[1:]), complex)
    for field, wave in zip(fields, waves, strict=True):
        if np.abs(wave).max() < HIGHEST:
            turn = np.tensordot((2 * np.pi * wave).astype(np.float32), guess, 1)
            field[:] = lock_in(flat * (np.cos(turn) + 1j * np.sin(turn)), wave, field.shape, width)
    rest = _integrate(fields, waves)
    straight = fields * np.exp(2j * np.pi * np.einsum("ki,iyx->kyx", waves, rest))
    return displacement + rest, straight.mean((1, 2))


def _integrate(fields: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Displacement whose phases -2 pi g.u follow those of the fields from node to node, without unwrapping them."""
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
    """Reciprocal vectors that take up the affine part of a displacement field, and the rest of it."""
    y, x = node_coordinates(shape, displacement.shape[1:])
    plane = np.stack(np.broadcast_arrays(1.0, y[:, None], x), -1).reshape(-1, 3)
    values = displacement.reshape(2, -1).T
    slope = np.linalg.lstsq(plane, values, rcond=None)[0]
    # g.(r - c - B r - v) = g (1 - B).(r - (1 - B)^-1 (c + v)), and c is a matter of the origin
    linear = np.eye(2) - slope[1:].T
    return basis @ linear, np.linalg.solve(linear, (values - plane @ slope).T).reshape(
        displacement.shape
    )


def _orient(basis: np.ndarray, amplitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn the basis by multiples of 60 degrees until the first lattice vector is within 30 degrees of the x axis."""
    for _ in range(5):
        y, x = np.linalg.inv(basis).T[0]
        if abs(math.atan2(y, x)) <= math.pi / 6:
            break
        # a turn by 60 degrees is one by -120, the next in the shell, and an inversion, which conjugates the amplitude
        basis = np.array([basis.sum(0), -basis[0]])
        amplitudes = np.roll(amplitudes.reshape(-1, 3), 1, axis=1).conj().ravel()
    return basis, amplitudes


def _find_axis(amplitudes: np.ndarray) -> tuple[np.ndarray, float]:
    """Brightest 3-fold axis of the mean cell in fractions of the lattice vectors, and how symmetric the cell is about it."""
    orbits = amplitudes.reshape(SHELLS.shape[:2])
    products = orbits * np.roll(orbits, -1, axis=1).conj()
    differences = SHELLS - np.roll(SHELLS, -1, axis=1)

    def symmetry(axes: np.ndarray) -> np.ndarray:
        return (
            products * np.exp(2j * np.pi * np.einsum("ai,oji->aoj", axes, differences))
        ).real.sum((-1, -2))

    best = np.zeros(2)
    for reach in (0.5, 0.5 / 24, 0.5 / 24**2):
        ticks = np.linspace(-reach, reach, 49)
        axes = best + np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
        best = axes[np.argmax(symmetry(axes))]
    axes = best + np.arange(3)[:, None] / 3
    brightness = (amplitudes * np.exp(2j * np.pi * axes @ REFLECTIONS.T)).real.sum(-1)
    return axes[np.argmax(brightness)], float(symmetry(best[None])[0] / (np.abs(orbits) ** 2).sum())
