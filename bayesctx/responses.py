"""The shipped table of column responses, interpolated in beam energy and collection angles."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
import xarray as xr
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

from .context import Detector
from .crystal import THERMAL_DISPLACEMENT
from .defects import Atoms, formula_of
from .optics import MAX_SEMIANGLE, as_tensor, wavelength

__all__ = ["LookUp", "ResponseTable", "load_table", "pair_overlap"]

MAX_EXTRAPOLATION = 0.1  # Å beyond the tabulated separations of a pair


@dataclass(frozen=True)
class LookUp:
    """Table entries of columns with weights, height of the centre and thermal displacement.

    Attributes
    ----------
    entry, weight : Tensor, shape (*column, node)
        Entries of the table (one per tabulated separation of a pair) and their weights; an empty
        column has weights zero.
    height, displacement : Tensor, shape (*column,)
        Height of the centre and root mean square thermal displacement in Å.
    """

    entry: Tensor
    weight: Tensor
    height: Tensor
    displacement: Tensor

    def __getitem__(self, index: object) -> LookUp:
        """Select columns by an index of any shape."""
        return LookUp(
            self.entry[index], self.weight[index], self.height[index], self.displacement[index]
        )

    def to(self, device: str | torch.device) -> LookUp:
        """Move to a device.

        Parameters
        ----------
        device : str or device
            Target device.

        Returns
        -------
        LookUp
            On that device.
        """
        return LookUp(
            *(v.to(device) for v in (self.entry, self.weight, self.height, self.displacement))
        )

    def reshape(self, *shape: int) -> LookUp:
        """Reshape the axes of the columns.

        Parameters
        ----------
        *shape : int
            New shape of the column axes.

        Returns
        -------
        LookUp
            With that shape.
        """
        mixed = (*shape, self.entry.shape[-1])
        return LookUp(
            self.entry.reshape(mixed),
            self.weight.reshape(mixed),
            self.height.reshape(shape),
            self.displacement.reshape(shape),
        )


class ResponseTable:
    """Column responses at any beam energy and annular detector within the range of the table.

    Parameters
    ----------
    dataset : Dataset
        As written by ``multislice.tabulate``.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.columns = {str(name): i for i, name in enumerate(dataset["column"].values)}
        self.pairs: dict[tuple[str, ...], dict[float, int]] = {}
        for name, i in self.columns.items():
            *elements, separation = name.split("-")
            if elements:
                self.pairs.setdefault(tuple(elements), {})[float(separation)] = i
        self.num_nodes = max(map(len, self.pairs.values()))
        rings = torch.from_numpy(dataset["response"].values.astype(np.float32))
        # the response beyond an angle is smooth in that angle: interpolate it, subtract later
        beyond = rings.flip(2).cumsum(2).flip(2)
        beyond = (
            torch.nn.functional.pad(beyond, (0, 0, 0, 0, 0, 1)).double().numpy()
        )  # (entry, beam_energy, angle, term, order)
        self.energies = dataset["beam_energy"].values
        self.angles = np.append(
            dataset["inner_collection_angle"].values, dataset["outer_collection_angle"].values[-1]
        )
        # scipy moves the interpolated axis to the front: (angle, beam_energy, entry, term, order)
        in_energy = make_interp_spline(np.log(self.energies), beyond, axis=1)
        in_angle = make_interp_spline(np.log(self.angles), in_energy.c, axis=2)
        self.energy_knots, self.angle_knots = (
            torch.from_numpy(in_energy.t),
            torch.from_numpy(in_angle.t),
        )
        # (beam_energy * angle, entry * term * order)
        coefficients = torch.from_numpy(
            in_angle.c.transpose(1, 0, 2, 3, 4).astype(np.float32, order="C")
        )
        self.splines = coefficients.flatten(0, 1).flatten(1)
        self._copies: dict[tuple, Tensor] = {}

    def look_up(self, columns: Sequence[Atoms]) -> LookUp:
        """Find columns in the table.

        Parameters
        ----------
        columns : sequence of tuple
            Each ``((element, z), ...)`` in any order, z in Å.

        Returns
        -------
        LookUp
            One element per column.

        Raises
        ------
        ValueError
            If a column is not in the table.
        """
        found = [self._find(tuple(sorted(column, key=lambda atom: atom[1]))) for column in columns]
        entry, *rest = zip(*found, strict=True)
        return LookUp(torch.tensor(entry), *(torch.tensor(v, dtype=torch.float32) for v in rest))

    def _find(self, column: Atoms) -> tuple[list[int], list[float], float, float]:
        """Entries, weights, height and displacement of one column."""
        if not column:
            return [0] * self.num_nodes, [0.0] * self.num_nodes, 0.0, 0.0
        elements = [element for element, _ in column]
        unknown = [e for e in elements if e not in THERMAL_DISPLACEMENT]
        if unknown:
            raise ValueError(
                f"elements of the table ({', '.join(THERMAL_DISPLACEMENT)}) were expected, "
                f"got {unknown[0]!r}; use multislice.column_response for others"
            )
        u2 = [THERMAL_DISPLACEMENT[e] ** 2 for e in elements]
        height = sum(z for _, z in column) / len(column)
        if len(column) == 1:
            index = self.columns[elements[0]]
            return (
                [index] * self.num_nodes,
                [1.0] + [0.0] * (self.num_nodes - 1),
                height,
                u2[0] ** 0.5,
            )
        nodes = self.pairs.get(tuple(elements)) if len(elements) == 2 else None
        if nodes is None:
            raise ValueError(
                f"a column of the table was expected, got {formula_of(column)} {column}; "
                "use multislice.column_response, which computes other columns"
            )
        separation, near, far = column[1][1] - column[0][1], min(nodes), max(nodes)
        if not near - MAX_EXTRAPOLATION <= separation <= far + MAX_EXTRAPOLATION:
            raise ValueError(
                f"a pair of atoms {near} to {far} Å apart was expected, got {column}; "
                "use multislice.column_response, which computes other separations"
            )
        # Lagrange interpolation in the separation
        weights = [math.prod((separation - b) / (a - b) for b in nodes if b != a) for a in nodes]
        return list(nodes.values()), weights, height, (u2[0] * u2[1] / sum(u2)) ** 0.5

    def coefficients(self, columns: LookUp, beam_energy: Tensor, detector: Detector) -> Tensor:
        """Coefficients of the column responses for a batch of imaging conditions.

        Parameters
        ----------
        columns : LookUp, shape (*batch, column)
            The columns of every condition.
        beam_energy : Tensor, shape (*batch,)
            In eV.
        detector : Detector
            Numbers, or tensors of shape (*batch,); all shapes broadcast.

        Returns
        -------
        Tensor, shape (*batch, column, term, order)
            In Å², columns at their height, without the thermal motion of the whole column.
        """
        share, knot = self._knots(beam_energy, detector)
        asked = torch.broadcast_shapes(columns.height.shape, (*share.shape[:-1], 1)).numel()
        # measured: gathering is faster below about as many columns as the table has entries
        few = asked < share.shape[:-1].numel() * len(self.columns)
        mixed = (self._pick if few else self._multiply)(columns, share, knot).unflatten(
            -1, (NUM_TERMS, NUM_ORDERS)
        )
        return _defocus(mixed, columns.height.to(share) / wavelength(beam_energy)[..., None])

    def _knots(self, energy: Tensor, detector: Detector) -> tuple[Tensor, Tensor]:
        """Weights and indices of the 4 (energy) x 8 (angle) non-zero B-splines, (*batch, 32)."""
        by_energy, of_energy = _cubic_splines(energy.log(), self.energy_knots)
        (by_inner, of_inner), (by_outer, of_outer) = (
            _cubic_splines(as_tensor(a, energy).log(), self.angle_knots) for a in detector.edges
        )
        by_angle = torch.cat(torch.broadcast_tensors(by_inner, -by_outer), -1)
        of_angle = torch.cat(torch.broadcast_tensors(of_inner, of_outer), -1)
        share = by_energy[..., :, None] * by_angle[..., None, :]
        knot = of_energy[..., :, None] * (len(self.angle_knots) - 4) + of_angle[..., None, :]
        return share.flatten(-2), knot.flatten(-2)

    def _multiply(self, columns: LookUp, share: Tensor, knot: Tensor) -> Tensor:
        """Mix by one matrix product over all entries, shape (*batch, column, term * order)."""
        dense = share.new_zeros(*share.shape[:-1], len(self.splines)).scatter_add(-1, knot, share)
        entries = (dense @ self._splines(share)).unflatten(-1, (len(self.columns), -1))
        condition = torch.arange(share.shape[:-1].numel(), device=share.device).view(
            *share.shape[:-1], 1, 1
        )
        picked = entries.flatten(0, -2)[condition * len(self.columns) + columns.entry]
        return (columns.weight.to(share)[..., None, :] @ picked)[..., 0, :]

    def _pick(self, columns: LookUp, share: Tensor, knot: Tensor) -> Tensor:
        """Mix by gathering the needed entries, shape (*batch, column, term * order)."""
        place = knot[..., None, :, None] * len(self.columns) + columns.entry[..., None, :]
        weight = share[..., None, :, None] * columns.weight.to(share)[..., None, :]
        rows = self._splines(share).view(-1, NUM_TERMS * NUM_ORDERS)
        bags = (v.flatten(-2).flatten(0, -2) for v in (place, weight))
        mixed = nn.functional.embedding_bag(
            next(bags), rows, per_sample_weights=next(bags), mode="sum"
        )
        return mixed.view(*place.shape[:-2], -1)

    def _splines(self, like: Tensor) -> Tensor:
        """Spline coefficients on the device and in the precision of ``like``, cached."""
        where = like.device, like.dtype
        if where not in self._copies:
            self._copies[where] = self.splines.to(like)
        return self._copies[where]


def _defocus(c: Tensor, waves: Tensor) -> Tensor:
    """Shift columns along the beam by ``waves`` wavelengths, to second order in the phase."""
    d = (torch.pi * (MAX_SEMIANGLE * 1e-3) ** 2 * waves)[..., None]
    c00, c10, c01, c11, c20, c02 = c.unbind(-2)
    return torch.stack(
        [
            c00,
            c10,
            c01 - d * c00,
            c11 - 2 * d * c01 + d**2 * c00,
            c20 + d * c01 - d**2 / 2 * c00,
            c02 - d * c10,
        ],
        -2,
    )


def _cubic_splines(x: Tensor, knots: Tensor) -> tuple[Tensor, Tensor]:
    """Values and indices of the non-zero cubic B-splines at x (Cox-de Boor), shapes (*x, 4)."""
    knots = knots.to(x)
    interval = (torch.bucketize(x.detach(), knots, right=True) - 1).clamp(3, len(knots) - 5)
    left = [x - knots[interval - j] for j in range(3)]
    right = [knots[interval + j + 1] - x for j in range(3)]
    values = [torch.ones_like(x)]
    for degree in range(3):
        shares = [v / (right[r] + left[degree - r]) for r, v in enumerate(values)]
        rising = [torch.zeros_like(x)] + [left[degree - r] * v for r, v in enumerate(shares)]
        falling = [right[r] * v for r, v in enumerate(shares)] + [torch.zeros_like(x)]
        values = [a + b for a, b in zip(rising, falling, strict=True)]
    return torch.stack(values, -1), interval[..., None] + torch.arange(-3, 1, device=x.device)


@functools.cache
def load_table() -> ResponseTable:
    """Load the table that is shipped with the package; later calls return the same object."""
    with resources.as_file(resources.files("bayesctx").joinpath("responses.nc")) as path:
        return ResponseTable(xr.load_dataset(path, engine="netcdf4"))


NUM_ORDERS = 8  # Chebyshev polynomials in |Q|
NUM_TERMS = 6  # real terms of optics.POWERS


COHERENCE = 0.163
"""Gaussian width of the interference of a sheared pair, in periods of the innermost detected wave.

Fitted to the exact interference of sheared pairs at 60 and 80 keV.
"""


def pair_overlap(
    shear: Tensor, separation: Tensor, beam_energy: Tensor, inner_collection_angle: Tensor
) -> Tensor:
    """Fraction of a sheared pair of atoms that scatters like the upright pair, in closed form.

    Parameters
    ----------
    shear, separation : Tensor
        Distance in Å between the two atoms across and along the beam.
    beam_energy, inner_collection_angle : Tensor
        In eV and mrad.

    Returns
    -------
    Tensor
        One for an upright pair; the rest scatters like two single atoms. Negative where the upper
        atom deflects the beam away from the lower one.

    Notes
    -----
    Channelling: (1 - 2.8 x²) exp(-2.4 x²) with the Fresnel number x² = shear² / (wavelength
    separation), fitted to multislice of six pairs at 40 to 300 keV, 50-120, 60-200 and 100-250
    mrad, up to 5 degrees (docs/physics.md). Where the interference between the two atoms
    (``COHERENCE``) is larger than that, it is used instead.
    """
    square = shear**2 / (wavelength(beam_energy) * separation)
    channelling = (1 - 2.8 * square) * torch.exp(-2.4 * square)
    turns = shear * inner_collection_angle * 1e-3 / wavelength(beam_energy)
    coherence = torch.exp(-0.5 * (turns / COHERENCE) ** 2)
    return torch.where(coherence > channelling.abs(), coherence, channelling)
