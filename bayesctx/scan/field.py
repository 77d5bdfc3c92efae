"""Images of all columns of a scan, species by species, at given values of the shared variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..context import Probe
from ..defects import CODOPED_SPECIES, SPECIES
from ..fourier import embed, structure_factor
from ..nuisances import NUISANCES
from ..optics import geometric_reach, mode_orders
from ..raster import synthesize, synthesize_rows
from ..simulation.rendering import pixel_axis
from ..simulation.spectra import detector_spectra, image_bandwidth

__all__ = ["Field", "Material"]

PADDING = 9.0  # Å between the image and its periodic repetition, on each side
# Å beside the rays of geometrical optics, in which the image of a column ends but for 3e-4 of its
# peak; these rays with a margin, since probes vary around given ones
HALO, MARGIN_OF_REACH = 6.0, 1.0
PUPIL_CELL = 36.0  # Å, least period of the probe: its inverse is the width of the aperture's edge


@dataclass(frozen=True)
class Material:
    """Host and dopant by index into ``HOSTS`` and ``METALS``.

    Attributes
    ----------
    host, dopant : int
        Of the crystal.
    codopant : int, optional
        Second dopant of a co-doped crystal.
    """

    host: int
    dopant: int
    codopant: int | None = None

    @property
    def num_species(self) -> int:
        """Species that a site may hold: one more in a co-doped crystal, ``CODOPED_SPECIES``."""
        return len(SPECIES) + (self.codopant is not None)


@dataclass(frozen=True, eq=False)
class Field:
    """Geometry of a scan, and the band limit of its images.

    Attributes
    ----------
    shape : tuple of int
        Pixels (y, x).
    sampling : float
        Size of a pixel in Å if the crystal is not strained.
    num_modes : tuple of int
        Largest orders of the spatial frequencies (mx, my).
    column_cell : float
        Period in Å of images of one column that do not overlap, see ``spectra``.
    """

    shape: tuple[int, int]
    sampling: float
    num_modes: tuple[int, int] = (0, 0)
    column_cell: float = math.inf

    @property
    def cell(self) -> tuple[float, float]:
        """Periods (Lx, Ly) in Å."""
        return tuple(n * self.sampling + 2 * PADDING for n in reversed(self.shape))

    @property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Positions x and y of the pixels in Å from the centre."""
        return tuple(pixel_axis(n, self.sampling) for n in reversed(self.shape))

    def limited(self, values: Mapping[str, Tensor], margin: float = 1.1) -> Field:
        """Set the band limit to that of the sharpest of some images.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (point,)
            Shared variables of these images, see ``Coordinates.values``.
        margin : float
            Factor of the band limit.

        Returns
        -------
        Field
            The same geometry. Images that are sharper than these are cut off.
        """
        image, nuisances = _of_simulator(values, Material(0, 0))
        band = margin * float(image_bandwidth(image, nuisances).max())
        num_modes = tuple(math.ceil(band * length) for length in self.cell)
        reach = float(geometric_reach(Probe.of({**nuisances, **image})).max())
        column_cell = 2 * (HALO + MARGIN_OF_REACH * reach)
        return replace(self, num_modes=num_modes, column_cell=column_cell)

    def spectra(
        self,
        values: Mapping[str, Tensor],
        material: Material,
        cell: tuple[float, float] | None = None,
        num_modes: tuple[int, int] | None = None,
        kept: Sequence[int] | None = None,
    ) -> Tensor:
        """Fourier coefficients of one column of every species on every detector.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (point,)
            Shared variables, see ``Coordinates.values``.
        material : Material
            Host and dopant.
        cell : tuple of float, optional
            Periods (Lx, Ly) in Å; default: those of the field.
        num_modes : tuple of int, optional
            Largest orders (mx, my); default: those of the field.
        kept : sequence of int, optional
            Species; default: all.

        Returns
        -------
        Tensor, shape (point, detector, species, qy, qx)
            Complex.

        Notes
        -----
        A strained crystal is seen in the frame of the perfect one: the periods are multiplied by
        1 + strain, so that positions stay those of the perfect crystal.

        The transfer function of the probe is that of a cell in which the image of one column ends,
        so that it costs the same for scans of any size.
        """
        cell, num_modes = cell or self.cell, num_modes or self.num_modes
        small = tuple(min(length, self.column_cell) for length in cell)
        if small != cell:
            ratio = [own / length for own, length in zip(small, cell, strict=True)]
            modes = tuple(math.ceil(m * r) for m, r in zip(num_modes, ratio, strict=True))
            found = self.spectra(values, material, small, modes, kept)
            return embed(found, cell=small, larger=cell, num_modes=num_modes)
        image, nuisances = _of_simulator(values, material)
        num_detectors = values["inner_collection_angle"].shape[1]
        deviation = torch.zeros(len(values["strain"]), num_detectors, material.num_species)
        strain, which = (1 + values["strain"]).unique(return_inverse=True)
        parts = []
        for k in range(len(strain)):
            rows = (which == k).nonzero()[:, 0]
            stretch = 1 + values["strain"][rows[0]]
            mine = [{n: v[rows] for n, v in d.items()} for d in (image, nuisances)]
            parts.append((rows, detector_spectra(
                *mine, deviation[rows], cell=tuple(c * stretch for c in cell), num_modes=num_modes,
                refinement=math.ceil(PUPIL_CELL / min(cell)),
                kept=kept,
            )))  # fmt: skip
        if len(parts) == 1:
            return parts[0][1]
        rows, found = zip(*parts, strict=True)
        return torch.cat(found)[torch.cat(rows).argsort()]

    def factors(self, positions: Tensor, weights: Tensor, species: Tensor) -> dict[int, Tensor]:
        """Structure factors of the columns of every species that occurs.

        Parameters
        ----------
        positions : Tensor, shape (site, 2)
            (x, y) in Å from the centre of the image.
        weights : Tensor, shape (site, detector)
            Relative amplitudes.
        species : Tensor of int, shape (site,)
            Index into ``SPECIES``; species without atoms are left out.

        Returns
        -------
        dict of int to Tensor, shape (detector, qy, qx)
            By species.
        """
        atoms = torch.ones(CODOPED_SPECIES + 1, dtype=torch.bool)
        atoms[: len(SPECIES)] = torch.tensor([bool(s.slots) for s in SPECIES])
        held = atoms[species].nonzero()[:, 0]
        kinds, sizes = species[held].unique(return_counts=True)
        order = held[species[held].argsort(stable=True)]
        found = structure_factor(
            positions[order], weights[order].mT, cell=self.cell, num_modes=self.num_modes,
            sizes=sizes.tolist(),
        )  # fmt: skip
        return dict(zip(kinds.tolist(), found.unbind(1), strict=True))

    def images(self, spectra: Tensor, row_shift: Tensor | None = None) -> Tensor:
        """Images of Fourier coefficients.

        Parameters
        ----------
        spectra : Tensor, shape (*batch, qy, qx)
            Coefficients.
        row_shift : Tensor, shape (y, 3), optional
            Displacement of the scan rows, see ``synthesize_rows``.

        Returns
        -------
        Tensor, shape (*batch, y, x)
            Values at the pixels.
        """
        x, y = self.axes
        if row_shift is None:
            return synthesize(spectra, x, y, cell=self.cell)
        return synthesize_rows(spectra, x, y, row_shift, cell=self.cell)

    def slopes(self, spectrum: Tensor) -> Tensor:
        """Coefficients of the derivatives of an image along x and y.

        Parameters
        ----------
        spectrum : Tensor, shape (*batch, qy, qx)
            Those of the image.

        Returns
        -------
        Tensor, shape (2, *batch, qy, qx)
            Per Å.
        """
        qx, qy = frequencies(self.cell, self.num_modes)
        return torch.stack([spectrum * (2j * math.pi * q) for q in (qx, qy[:, None])])


def frequencies(cell: tuple[float, float], num_modes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Spatial frequencies in the order of a spectrum.

    Parameters
    ----------
    cell : tuple of float
        Periods (Lx, Ly) in Å.
    num_modes : tuple of int
        Largest orders (mx, my).

    Returns
    -------
    qx, qy : Tensor, shapes (mx + 1,) and (2 my + 1,)
        In 1/Å.
    """
    return (
        torch.arange(num_modes[0] + 1) / cell[0],
        mode_orders(num_modes[1]).float() / cell[1],
    )


def _of_simulator(
    values: Mapping[str, Tensor], material: Material
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Shared variables as the simulator takes them."""
    like = values["strain"]
    single = {n: v.float() for n, v in values.items()}
    whole = {n: torch.zeros_like(like, dtype=torch.float32) for n in NUISANCES}
    nuisances = (
        whole | {n: v for n, v in single.items() if n in NUISANCES} | {"strain": whole["strain"]}
    )
    image = {n: v for n, v in single.items() if n not in NUISANCES} | {
        "dose": torch.ones_like(whole["strain"]),
        "host": torch.full((len(like),), material.host),
        "dopant": torch.full((len(like),), material.dopant),
    }
    if material.codopant is not None:
        image["codopant"] = torch.full((len(like),), material.codopant)
    return image, nuisances
