"""The table of column responses that is shipped, interpolated in energy and angle."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..defects import Atoms
from ..evidence import check_imaging
from ..fourier import column_spectra, structure_factor, synthesize
from ..optics import ABERRATIONS, wavelength
from ..responses import load_table
from .interference import interference_image
from .kernel import scattering_kernel
from .shear import sheared_parts
from .tabulation import fit_response

__all__ = ["column_image", "column_response"]


@functools.lru_cache(maxsize=256)
def column_response(
    column: Atoms, beam_energy: float, inner_collection_angle: float, outer_collection_angle: float
) -> tuple[Tensor, float]:
    """Response of one column to one detector, from the table or, for a column that it does not hold, by multislice.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    beam_energy : float
        In eV.
    inner_collection_angle, outer_collection_angle : float
        In mrad.

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
    conditions = (beam_energy, inner_collection_angle, outer_collection_angle)
    try:
        found = load_table().look_up([column])
    except ValueError:
        kernel = scattering_kernel(column, beam_energy, conditions[1:], num_waves=160)
        return torch.from_numpy(
            fit_response(kernel, beam_energy, conditions[1:])[0]
        ), kernel.displacement
    values = [torch.tensor(v, dtype=torch.float64) for v in conditions]
    return load_table().coefficients(found, *values)[0], float(found.displacement[0])


def column_image(
    columns: Sequence[tuple[float, float, Sequence[tuple[str, float]]]],
    *,
    beam_energy: float,
    convergence_semiangle: float,
    inner_collection_angle: float,
    outer_collection_angle: float,
    x: np.ndarray,
    y: np.ndarray,
    aberrations: Mapping[str, float] | None = None,
    source_size: float = 0.0,
    focal_spread: float = 0.0,
    cell: tuple[float, float] | None = None,
    tilt: tuple[float, float] = (0.0, 0.0),
    interference: bool = True,
) -> xr.DataArray:
    """Noise-free annular dark-field image of columns of atoms, as a fraction of the beam.

    Parameters
    ----------
    columns : sequence of tuple
        ``(x, y, [(element, z), ...])``: position in Å and the atoms of the column, z in Å along the beam.
    beam_energy : float
        In eV, 30e3 to 300e3.
    convergence_semiangle : float
        In mrad, up to 40.
    inner_collection_angle, outer_collection_angle : float
        In mrad, between 25 and 300.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    aberrations : mapping of str to float, optional
        Polar coefficients C10 (= -defocus), C12, phi12, C21, phi21, C23, phi23, C30 in Å and rad; the focus refers to
        z = 0. Default: none.
    source_size : float
        Full width at half maximum of the effective source in Å.
    focal_spread : float
        Root mean square spread of the focus in Å.
    cell : tuple of float, optional
        Periods (Lx, Ly) in Å: the columns repeat, wave vectors live on the reciprocal lattice of the cell, and the aperture
        falls off over one spacing of it, as in a multislice calculation. Default: isolated columns in a cell that is
        wide enough for them.
    tilt : tuple of float
        Tilt of the specimen in degrees: atoms at height z are displaced by z tan(tilt) along x and y, columns shear.
        Fitted for pairs (``pair_overlap``): within 2 % rms of multislice, 5 % at worst, up to 5 degrees.
    interference : bool
        Add the interference between columns, which takes a second or so; without it the image is the sum of those of its
        columns, as ``simulate`` has it.

    Returns
    -------
    DataArray, dimensions (y, x)
        Fraction of the incident electrons that reach the detector.

    Raises
    ------
    ValueError
        For an impossible or unknown condition, and for a column that cannot be computed.

    Notes
    -----
    Every column scatters by itself and coherently; to the sum of the images of the columns the interference between them is
    added (``multislice.interference``). The response of a column is its scattering
    kernel G(k1, k2), expanded in |k2 - k1| and in powers of k1² and k2², fitted to multislice (docs/physics.md). The columns
    of doped dichalcogenides stand in a table; for others the multislice runs once, which takes seconds.

    Examples
    --------
    >>> import numpy as np
    >>> axis = np.linspace(-2, 2, 5)
    >>> image = column_image([(0.0, 0.0, [("W", 0.0)])], beam_energy=80e3, convergence_semiangle=30,
    ...                      inner_collection_angle=80, outer_collection_angle=250, x=axis, y=axis)
    >>> image.dims, int(image.values.argmax())
    (('y', 'x'), 12)
    """
    check_imaging(
        beam_energy, convergence_semiangle, inner_collection_angle, outer_collection_angle
    )
    unknown = set(aberrations or {}) - set(ABERRATIONS)
    if unknown:
        raise ValueError(
            f"aberrations among {', '.join(ABERRATIONS)} were expected, got {sorted(unknown)[0]!r}"
        )
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    stacks = [
        tuple(sorted(((e, float(z)) for e, z in atoms), key=lambda atom: atom[1]))
        for *_, atoms in columns
    ]
    slope = tuple(math.tan(math.radians(t)) for t in tilt)
    placed = [(stack, cx, cy) for stack, (cx, cy, _) in zip(stacks, columns, strict=True)]
    kinds = _group([(stack, cx, cy, 1.0) for stack, cx, cy in placed])
    detector = (inner_collection_angle, outer_collection_angle)
    beam = {"beam_energy": beam_energy, "convergence_semiangle": convergence_semiangle}
    sheared = {
        stack: sheared_parts(stack, slope, detector=detector, interference=interference, **beam)
        for stack in kinds
    }
    parts = _group(
        [
            (part, cx + dx, cy + dy, w)
            for stack, cx, cy in placed
            for part, dx, dy, w in sheared[stack]
        ]
    )
    optics = beam | {
        "aberrations": aberrations or {},
        "source_size": source_size,
        "focal_spread": focal_spread,
    }
    if cell is None:
        # the rim of the aperture, one spacing of the lattice wide, lifts a peak by spacing / (3 radius): here by 0.7 %
        places = np.concatenate([np.empty((0, 3)), *kinds.values()])
        period = tuple(
            float(np.ptp(np.append(places[:, axis], v))) + 60.0 for axis, v in enumerate((x, y))
        )
    else:
        period = cell = tuple(map(float, cell))
    image = _sum_of_columns(parts, detector, x, y, period, **optics)
    if interference:
        image = image + interference_image(
            kinds, parts, slope=slope, detector=detector, x=x, y=y, cell=cell, **optics
        )
    axes = {"y": ("y", y, {"units": "Å"}), "x": ("x", x, {"units": "Å"})}
    return xr.DataArray(
        image, axes, ("y", "x"), "intensity", {"units": "1", "long_name": "fraction of the beam"}
    )


def _group(columns: Sequence[tuple[Atoms, float, float, float]]) -> dict[Atoms, np.ndarray]:
    """Positions and weights of the columns of every kind, each of shape (column, 3)."""
    grouped: dict[Atoms, list] = {}
    for kind, *place in columns:
        grouped.setdefault(kind, []).append(place)
    return {kind: np.array(places) for kind, places in grouped.items()}


def _sum_of_columns(
    parts: Mapping[Atoms, np.ndarray],
    detector: tuple[float, float],
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float],
    *,
    beam_energy: float,
    convergence_semiangle: float,
    aberrations: Mapping[str, float],
    source_size: float,
    focal_spread: float,
) -> np.ndarray:
    """Images of columns by their responses, added up, shape (y, x)."""

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    responses = [column_response(part, beam_energy, *detector) for part in parts]
    cutoff = 2 * convergence_semiangle * 1e-3 / wavelength(beam_energy)
    num_modes = tuple(int(cutoff * length) + 2 for length in cell)
    spectra = column_spectra(
        torch.stack([c for c, _ in responses]),
        torch.tensor([u for _, u in responses], dtype=torch.float64),
        beam_energy=scalar(beam_energy),
        convergence_semiangle=scalar(convergence_semiangle),
        aberrations={name: scalar(value) for name, value in aberrations.items()},
        source_size=scalar(source_size),
        focal_spread=scalar(focal_spread),
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
