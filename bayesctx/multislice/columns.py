"""Images of columns of atoms from their tabulated or computed responses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..context import Detector, Probe
from ..defects import Atoms
from ..evidence import check_imaging
from ..fourier import column_spectra, structure_factor
from ..optics import wavelength
from ..raster import synthesize
from ..responses import load_table
from .interference import interference_image, sheared_parts
from .kernel import scattering_kernel
from .tabulation import fit_response

__all__ = ["FRACTION", "column_image", "column_response"]

FRACTION = {"units": "1", "long_name": "fraction of the beam"}  # attributes of an image


@functools.lru_cache(maxsize=256)
def column_response(column: Atoms, beam_energy: float, detector: Detector) -> tuple[Tensor, float]:
    """Response of one column to one detector, from the table or else by multislice.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    beam_energy : float
        In eV.
    detector : Detector
        Numbers.

    Returns
    -------
    coefficients : Tensor, shape (term, order)
        In Å², double precision.
    displacement : float
        Root mean square thermal displacement of the column in Å.

    Raises
    ------
    ValueError
        For an element without a scattering factor.
    """
    try:
        found = load_table().look_up([column])
    except ValueError:
        kernel = scattering_kernel(column, beam_energy, detector.edges, num_waves=160)
        (fitted,) = fit_response(kernel, beam_energy, detector.edges)
        return torch.from_numpy(fitted), kernel.displacement
    energy = torch.tensor(beam_energy, dtype=torch.float64)
    return load_table().coefficients(found, energy, detector)[0], float(found.displacement[0])


def column_image(
    columns: Sequence[tuple[float, float, Sequence[tuple[str, float]]]],
    probe: Probe,
    detector: Detector,
    *,
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float] | None = None,
    tilt: tuple[float, float] = (0.0, 0.0),
    interference: bool = True,
) -> xr.DataArray:
    """Noise-free annular dark-field image of columns of atoms, as a fraction of the beam.

    Parameters
    ----------
    columns : sequence of tuple
        ``(x, y, [(element, z), ...])``: position in Å and the atoms of the column, z in Å along
        the beam.
    probe : Probe
        Numbers; a beam energy of 30e3 to 300e3 eV and a convergence semi-angle of 15 to 40 mrad.
    detector : Detector
        Numbers, between 25 and 300 mrad.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    cell : tuple of float, optional
        Periods (Lx, Ly) in Å of a periodic crystal. Wave vectors are those of its reciprocal
        lattice, and the edge of the aperture is one spacing of it wide, as in a multislice
        calculation. Default: isolated columns.
    tilt : tuple of float
        Tilt of the specimen in degrees: atoms at height z are displaced by z tan(tilt) along x and
        y. Sheared pairs are within 2 % rms of multislice, 5 % at worst, up to 5 degrees.
    interference : bool
        Add the interference between columns, which takes about a second. Without it the image is
        the sum of the images of the columns, as in ``simulate``.

    Returns
    -------
    DataArray, dimensions (y, x)
        Fraction of the incident electrons that reach the detector.

    Raises
    ------
    TypeError
        If ``probe`` is no ``Probe`` or ``detector`` no ``Detector``.
    ValueError
        For an impossible or unknown condition, and for a column that cannot be computed.

    Notes
    -----
    The atoms of a column scatter coherently. The interference between columns
    (``multislice.interference``) is added to the sum of the images of the columns. The response of
    a column is its scattering kernel G(k1, k2), expanded in |k2 - k1| and in powers of k1² and k2²
    and fitted to multislice (docs/physics.md). The columns of doped dichalcogenides are tabulated;
    for others the multislice runs once, which takes seconds.

    Examples
    --------
    >>> import numpy as np
    >>> axis = np.linspace(-2, 2, 5)
    >>> image = column_image(
    ...     [(0.0, 0.0, [("W", 0.0)])],
    ...     Probe(beam_energy=80e3, convergence_semiangle=30),
    ...     Detector(inner_collection_angle=80, outer_collection_angle=250),
    ...     x=axis,
    ...     y=axis,
    ... )
    >>> image.dims, int(image.values.argmax())
    (('y', 'x'), 12)
    """
    probe, detector = check_imaging(probe, detector)
    x, y = (np.atleast_1d(np.asarray(v, float)) for v in (x, y))
    slope = tuple(math.tan(math.radians(t)) for t in tilt)
    placed = [(_sort_atoms(atoms), cx, cy, 1.0) for cx, cy, atoms in columns]
    split = functools.partial(
        sheared_parts, slope=slope, probe=probe, detector=detector, interference=interference
    )
    kinds, parts = _group(placed), _split_columns(placed, split)
    cell = None if cell is None else tuple(map(float, cell))
    period = cell or _wide_cell(kinds, x, y)
    image = _sum_of_columns(parts, probe, detector, x, y, period)
    if interference:
        image = image + interference_image(
            kinds, parts, probe, detector, slope=slope, x=x, y=y, cell=cell
        )
    axes = {"y": ("y", y, {"units": "Å"}), "x": ("x", x, {"units": "Å"})}
    return xr.DataArray(image, axes, ("y", "x"), "intensity", FRACTION)


def _split_columns(
    placed: Sequence[tuple[Atoms, float, float, float]],
    split: Callable[[Atoms], list[tuple[Atoms, float, float, float]]],
) -> dict[Atoms, np.ndarray]:
    """Positions and weights of the parts into which ``split`` divides every column, by part."""
    parts = {kind: split(kind) for kind in dict.fromkeys(kind for kind, *_ in placed)}
    return _group(
        [(p, cx + dx, cy + dy, w) for k, cx, cy, _ in placed for p, dx, dy, w in parts[k]]
    )


def _sort_atoms(atoms: Sequence[tuple[str, float]]) -> Atoms:
    """Atoms of a column sorted along the beam."""
    return tuple(sorted(((e, float(z)) for e, z in atoms), key=lambda atom: atom[1]))


def _group(columns: Sequence[tuple[Atoms, float, float, float]]) -> dict[Atoms, np.ndarray]:
    """Positions and weights of the columns of every kind, each of shape (column, 3)."""
    grouped: dict[Atoms, list] = {}
    for kind, *place in columns:
        grouped.setdefault(kind, []).append(place)
    return {kind: np.array(places) for kind, places in grouped.items()}


def _wide_cell(
    kinds: Mapping[Atoms, np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[float, float]:
    """Periods in Å of a cell in which the columns are isolated from their periodic images."""
    # the aperture edge, one lattice spacing wide, raises a peak by spacing / (3 radius), here 0.7 %
    places = np.concatenate([np.empty((0, 3)), *kinds.values()])
    return tuple(
        float(np.ptp(np.append(places[:, axis], v))) + 60.0 for axis, v in enumerate((x, y))
    )


def _sum_of_columns(
    parts: Mapping[Atoms, np.ndarray],
    probe: Probe,
    detector: Detector,
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float],
) -> np.ndarray:
    """Sum of the images of columns by their responses, shape (y, x)."""
    responses = [column_response(part, probe.beam_energy, detector) for part in parts]
    cutoff = 2 * probe.convergence_semiangle * 1e-3 / wavelength(probe.beam_energy)
    num_modes = tuple(int(cutoff * length) + 2 for length in cell)
    spectra = column_spectra(
        torch.stack([c for c, _ in responses]),
        torch.tensor([u for _, u in responses], dtype=torch.float64),
        probe,
        cell=cell,
        num_modes=num_modes,
    )
    spectrum = torch.zeros_like(spectra[0])
    for response, places in zip(spectra, parts.values(), strict=True):
        places = torch.from_numpy(places)
        spectrum = spectrum + response * structure_factor(
            places[:, :2], places[:, 2], cell=cell, num_modes=num_modes
        )
    return synthesize(spectrum, torch.from_numpy(x), torch.from_numpy(y), cell=cell).numpy()
