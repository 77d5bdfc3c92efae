"""Tabulation of column responses: the fit to the scattering kernel, and the shipped table."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from ..crystal import ATOMIC_NUMBERS, CHALCOGENS, HOSTS
from ..defects import Atoms
from ..optics import MAX_SEMIANGLE, bilinear, chebyshev, wavelength
from ..responses import NUM_ORDERS, NUM_TERMS
from .kernel import Kernel, scattering_kernel

__all__ = ["column_key", "fit_response", "table_columns", "tabulate"]

ENERGIES = tuple(1e3 * e for e in (30, 36, 43, 51, 60, 70, 80, 98, 120, 150, 200, 245, 300))  # eV
ANGLES = tuple(
    map(
        float, (25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100, 110, 120, 135, 150, 175, 200, 250, 300)
    )
)  # mrad
NUM_WAVES = 80  # incident plane waves of the kernel that is fitted
# Å; between two nodes the phase pi q² wavelength separation of a pair changes by up to 1 rad
CHALCOGEN_SEPARATIONS = (2.9, 3.3, 3.7)
ADATOM_SEPARATIONS = (2.4, 2.65, 2.9)


def fit_response(kernel: Kernel, beam_energy: float, edges: Sequence[float]) -> np.ndarray:
    """Fit the isotropic expansion of the scattering kernel to its values on pairs of plane waves.

    Parameters
    ----------
    kernel : Kernel
        Values of G(k1, k2) for every ring.
    beam_energy : float
        In eV.
    edges : sequence of float
        Edges of the rings in mrad; a ring is fitted on the waves inside its inner edge.

    Returns
    -------
    ndarray, shape (ring, term, order)
        Real coefficients in Å².

    Notes
    -----
    G(k1, k2) = sum_t O_t(|k2 - k1|) b_t(p1, p2), O_t a Chebyshev series over the diameter of the
    largest aperture.
    """
    scale = wavelength(beam_energy) / (MAX_SEMIANGLE * 1e-3)
    power = torch.from_numpy((kernel.k**2).sum(1) * scale**2)
    fitted = []
    for inner, values in zip(edges, kernel.values, strict=False):
        inside = np.flatnonzero(power.sqrt().numpy() * MAX_SEMIANGLE < inner)
        i, j = (inside[n] for n in np.triu_indices(len(inside)))
        q = torch.from_numpy(np.hypot(*(kernel.k[i] - kernel.k[j]).T) * scale / 2)
        terms = bilinear([power[i] ** m for m in range(3)], [power[j] ** m + 0j for m in range(3)])
        basis = torch.stack([t * c for t in terms for c in chebyshev(q, NUM_ORDERS)], -1).numpy()
        # small angles matter for every aperture; off-diagonal pairs represent two elements
        weight = np.exp(-3 * (power[i] + power[j]).numpy()) * np.where(i == j, 1, np.sqrt(2))
        rows, target = basis * weight[:, None], values[i, j] * weight
        solution = np.linalg.lstsq(
            np.concatenate([rows.real, rows.imag]),
            np.concatenate([target.real, target.imag]),
            rcond=1e-4,
        )[0]
        fitted.append(solution.reshape(NUM_TERMS, NUM_ORDERS))
    return np.array(fitted)


def table_columns() -> list[Atoms]:
    """Columns of the table: single atoms, and pairs around z = 0 at three separations."""

    def pairs(
        combinations: Iterable[tuple[str, str]], separations: tuple[float, ...]
    ) -> list[Atoms]:
        return [((a, -s / 2), (b, s / 2)) for a, b in combinations for s in separations]

    light = ("O", *CHALCOGENS)
    metals = tuple(dict.fromkeys(h.metal for h in HOSTS.values()))
    return [
        *(((element, 0.0),) for element in ATOMIC_NUMBERS),
        *pairs(itertools.product(light, light), CHALCOGEN_SEPARATIONS),
        *pairs(itertools.product(metals, CHALCOGENS), CHALCOGEN_SEPARATIONS),
        *pairs(itertools.product(CHALCOGENS, metals), CHALCOGEN_SEPARATIONS),
        *pairs(((m, m) for m in metals), ADATOM_SEPARATIONS),
    ]


def tabulate(
    path: str | os.PathLike, *, part: int = 0, num_parts: int = 1, progress: bool = True
) -> Path:
    """Compute the table of column responses by multislice and write it as netCDF.

    Parameters
    ----------
    path : path-like
        The netCDF file. Finished columns are kept in ``<path>.parts``, from which an interrupted
        run continues.
    part, num_parts : int
        Share of the columns that this process computes. The last process to finish writes the
        file.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The path of the file, which exists once every column has been computed.
    """
    path = Path(path)
    folder = path.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    columns = table_columns()
    files = [folder / f"{column_key(column)}.npy" for column in columns]
    mine = list(zip(columns, files, strict=True))[part::num_parts]
    for column, file in tqdm(mine, disable=not progress, unit="column"):
        if not file.exists():
            kernels = [
                scattering_kernel(column, energy, ANGLES, num_waves=NUM_WAVES)
                for energy in ENERGIES
            ]
            fits = [
                fit_response(kernel, energy, ANGLES)
                for kernel, energy in zip(kernels, ENERGIES, strict=True)
            ]
            np.save(file.with_suffix(".tmp.npy"), np.array(fits, np.float32))
            file.with_suffix(".tmp.npy").replace(file)
    if all(file.exists() for file in files):
        _write(path, columns, np.stack([np.load(file) for file in files]))
    return path


def column_key(column: Atoms) -> str:
    """Name of a column in the table.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam.

    Returns
    -------
    str
        Elements along the beam and, for a pair, its separation in Å.
    """
    elements = "-".join(element for element, _ in column)
    return elements if len(column) == 1 else f"{elements}-{column[1][1] - column[0][1]:.2f}"


def _write(path: Path, columns: list[Atoms], rings: np.ndarray) -> None:
    """Write the ring responses, shape (column, beam_energy, ring, term, order)."""
    dataset = xr.Dataset(
        {"response": (("column", "beam_energy", "ring", "term", "order"), rings, {"units": "Å²"})},
        {
            "column": [column_key(c) for c in columns],
            "beam_energy": ("beam_energy", list(ENERGIES), {"units": "eV"}),
            "inner_collection_angle": ("ring", list(ANGLES[:-1]), {"units": "mrad"}),
            "outer_collection_angle": ("ring", list(ANGLES[1:]), {"units": "mrad"}),
        },
        {
            "title": "Column responses of doped 1H transition-metal dichalcogenides",
            "source": "bayesctx.multislice.tabulate: multislice, "
            "Lobato-Van Dyck scattering factors, Einstein phonons",
            "max_semiangle_mrad": MAX_SEMIANGLE,
        },
    )
    encoding = {
        "zlib": True,
        "complevel": 9,
        "shuffle": True,
        "significant_digits": 4,
        "quantize_mode": "BitGroom",
    }
    dataset.to_netcdf(path, engine="netcdf4", encoding={"response": encoding})
