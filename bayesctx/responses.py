"""The table of column responses that is shipped, interpolated in energy and angle."""

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

from .defects import Atoms, formula_of
from .elements import THERMAL_DISPLACEMENT
from .optics import MAX_SEMIANGLE, wavelength

__all__ = ["LookUp", "ResponseTable", "chebyshev", "load_table", "pair_overlap"]

MAX_EXTRAPOLATION = 0.1  # Å beyond the separations of the table


@dataclass(frozen=True)
class LookUp:
    """Where columns stand in the table: entries to mix, height of the centre (Å), rms displacement (Å).

    Attributes
    ----------
    entry, weight : Tensor, shape (*column, node)
        Entries of the table, the separations of a pair, and how much of each; an empty column has no weight.
    height, displacement : Tensor, shape (*column,)
        In Å.
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
            Where to.

        Returns
        -------
        LookUp
            There.
        """
        return LookUp(
            *(v.to(device) for v in (self.entry, self.weight, self.height, self.displacement))
        )

    def reshape(self, *shape: int) -> LookUp:
        """Arrange the columns in another shape.

        Parameters
        ----------
        *shape : int
            The new shape.

        Returns
        -------
        LookUp
            Of this shape.
        """
        mixed = (*shape, self.entry.shape[-1])
        return LookUp(
            self.entry.reshape(mixed),
            self.weight.reshape(mixed),
            self.height.reshape(shape),
            self.displacement.reshape(shape),
        )


class ResponseTable:
    """Column responses at any beam energy and any annular detector inside the table.

    Parameters
    ----------
    dataset : Dataset
        As written by ``tabulate``.
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
        # responses beyond an angle vary smoothly with it: interpolate them, then subtract
        beyond = rings.flip(2).cumsum(2).flip(2)
        beyond = (
            torch.nn.functional.pad(beyond, (0, 0, 0, 0, 0, 1)).double().numpy()
        )  # (entry, beam_energy, angle, term, order)
        self.energies = dataset["beam_energy"].values
        self.angles = np.append(
            dataset["inner_collection_angle"].values, dataset["outer_collection_angle"].values[-1]
        )
        # scipy keeps the axis of interpolation first: (angle, beam_energy, entry, term, order)
        in_energy = make_interp_spline(np.log(self.energies), beyond, axis=1)
        in_angle = make_interp_spline(np.log(self.angles), in_energy.c, axis=2)
        self.energy_knots, self.angle_knots = (
            torch.from_numpy(in_energy.t),
            torch.from_numpy(in_angle.t),
        )
        # (beam_energy and angle, entry and term and order)
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
            Each ``((element, z), ...)``, z in Å; order does not matter.

        Returns
        -------
        LookUp
            One entry per column.

        Raises
        ------
        ValueError
            If a column is not in the table.
        """
        found = [self._find(tuple(sorted(column, key=lambda atom: atom[1]))) for column in columns]
        entry, weight, height, displacement = (
            torch.tensor(values) for values in zip(*found, strict=True)
        )
        return LookUp(entry, weight, height, displacement)

    def _find(self, column: Atoms) -> tuple[list[int], list[float], float, float]:
        """Entries, weights, height and displacement of one column."""
        if not column:
            return [0] * self.num_nodes, [0.0] * self.num_nodes, 0.0, 0.0
        elements = [element for element, _ in column]
        unknown = [e for e in elements if e not in THERMAL_DISPLACEMENT]
        if unknown:
            raise ValueError(
                f"elements of the table were expected ({', '.join(THERMAL_DISPLACEMENT)}), got {unknown[0]!r}"
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
                f"a column of a doped dichalcogenide was expected, got {formula_of(column)} {column}; "
                "add it to table_columns() and run tabulate()"
            )
        separation, near, far = column[1][1] - column[0][1], min(nodes), max(nodes)
        if not near - MAX_EXTRAPOLATION <= separation <= far + MAX_EXTRAPOLATION:
            raise ValueError(
                f"a pair {near} to {far} Å apart was expected, got {column}; the table cannot be stretched so far"
            )
        # Lagrange's polynomial through the separations of the table
        weights = [math.prod((separation - b) / (a - b) for b in nodes if b != a) for a in nodes]
        return list(nodes.values()), weights, height, (u2[0] * u2[1] / sum(u2)) ** 0.5

    def coefficients(
        self,
        columns: LookUp,
        beam_energy: Tensor,
        inner_collection_angle: Tensor,
        outer_collection_angle: Tensor,
    ) -> Tensor:
        """Coefficients of the column responses for a batch of conditions.

        Parameters
        ----------
        columns : LookUp, shape (*batch, column)
            The columns of every condition.
        beam_energy, inner_collection_angle, outer_collection_angle : Tensor, shape (*batch,)
            In eV, mrad and mrad; all shapes broadcast.

        Returns
        -------
        Tensor, shape (*batch, column, term, order)
            In Å², columns at their height, without their common thermal displacement.
        """
        share, knot = self._knots(beam_energy, inner_collection_angle, outer_collection_angle)
        asked = torch.broadcast_shapes(columns.height.shape, (*share.shape[:-1], 1)).numel()
        # a hundred columns of a condition cost as much to pick as all entries to multiply
        few = asked < share.shape[:-1].numel() * len(self.columns)
        mixed = (self._pick if few else self._multiply)(columns, share, knot).unflatten(
            -1, (NUM_TERMS, NUM_ORDERS)
        )
        return _defocus(mixed, columns.height.to(share) / wavelength(beam_energy)[..., None])

    def _knots(self, energy: Tensor, inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
        """Shares and places of the splines that are not zero, 4 of the energy by 4 of either angle, shapes (*batch, 32)."""
        by_energy, of_energy = _cubic_splines(energy.log(), self.energy_knots)
        (by_inner, of_inner), (by_outer, of_outer) = (
            _cubic_splines(a.log(), self.angle_knots) for a in (inner, outer)
        )
        by_angle = torch.cat(torch.broadcast_tensors(by_inner, -by_outer), -1)
        of_angle = torch.cat(torch.broadcast_tensors(of_inner, of_outer), -1)
        share = by_energy[..., :, None] * by_angle[..., None, :]
        knot = of_energy[..., :, None] * (len(self.angle_knots) - 4) + of_angle[..., None, :]
        return share.flatten(-2), knot.flatten(-2)

    def _multiply(self, columns: LookUp, share: Tensor, knot: Tensor) -> Tensor:
        """All entries by one matrix product, then those that are asked for, shape (*batch, column, term and order)."""
        dense = share.new_zeros(*share.shape[:-1], len(self.splines)).scatter_add(-1, knot, share)
        entries = (dense @ self._splines(share)).unflatten(-1, (len(self.columns), -1))
        condition = torch.arange(share.shape[:-1].numel(), device=share.device).view(
            *share.shape[:-1], 1, 1
        )
        picked = entries.flatten(0, -2)[condition * len(self.columns) + columns.entry]
        return (columns.weight.to(share)[..., None, :] @ picked)[..., 0, :]

    def _pick(self, columns: LookUp, share: Tensor, knot: Tensor) -> Tensor:
        """Only the splines and entries that are asked for, shape (*batch, column, term and order)."""
        place = knot[..., None, :, None] * len(self.columns) + columns.entry[..., None, :]
        weight = share[..., None, :, None] * columns.weight.to(share)[..., None, :]
        rows = self._splines(share).view(-1, NUM_TERMS * NUM_ORDERS)
        bags = (v.flatten(-2).flatten(0, -2) for v in (place, weight))
        mixed = nn.functional.embedding_bag(
            next(bags), rows, per_sample_weights=next(bags), mode="sum"
        )
        return mixed.view(*place.shape[:-2], -1)

    def _splines(self, like: Tensor) -> Tensor:
        """Coefficients of the splines on a device and in a precision, kept: the table is large."""
        where = like.device, like.dtype
        if where not in self._copies:
            self._copies[where] = self.splines.to(like)
        return self._copies[where]


def _defocus(c: Tensor, waves: Tensor) -> Tensor:
    """Move columns along the beam by ``waves`` wavelengths, to second order in exp(-i pi wavelength k² z)."""
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
    """Values at x of the cubic B-splines that are not zero there and which they are, shapes (*x, 4): Cox and de Boor."""
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
    """Load the table that is shipped with the package."""
    with resources.as_file(resources.files("bayesctx").joinpath("responses.nc")) as path:
        return ResponseTable(xr.load_dataset(path, engine="netcdf4"))


NUM_ORDERS = 8  # Chebyshev polynomials in |Q|
NUM_TERMS = 6  # real terms of optics.POWERS


def chebyshev(x: Tensor, num_orders: int = NUM_ORDERS) -> Tensor:
    """Chebyshev polynomials of the first kind on [0, 1], zero beyond.

    Parameters
    ----------
    x : Tensor
        Arguments, >= 0.
    num_orders : int
        Number of polynomials.

    Returns
    -------
    Tensor, shape (order, *x)
        T_n(2 x - 1).
    """
    t = 2 * x.clamp(max=1) - 1
    polynomials = [torch.ones_like(t), t]
    for _ in range(num_orders - 2):
        polynomials.append(2 * t * polynomials[-1] - polynomials[-2])
    return torch.stack(polynomials) * (x <= 1)


COHERENCE = 0.163
"""Shear, in periods of the innermost wave on the detector, at which the atoms of a pair cease to interfere: fitted to the exact
interference of sheared pairs at 60 and 80 keV."""


def pair_overlap(
    shear: Tensor, separation: Tensor, beam_energy: Tensor, inner_collection_angle: Tensor
) -> Tensor:
    """How much of a sheared pair still scatters as the upright one does, in closed form; the rest does as its single atoms do.

    Parameters
    ----------
    shear, separation : Tensor
        Distance in Å of its atoms across and along the beam.
    beam_energy, inner_collection_angle : Tensor
        In eV and mrad.

    Returns
    -------
    Tensor
        One for an upright pair; negative where the wave behind the upper atom shades the lower one.

    Notes
    -----
    (1 - 2.8 x²) exp(-2.4 x²) with x² = shear² / (wavelength separation), the Fresnel number of the pair: fitted to multislice of
    six pairs at 40 to 300 keV, 50-120, 60-200 and 100-250 mrad, up to 5 degrees (docs/physics.md).
    """
    square = shear**2 / (wavelength(beam_energy) * separation)
    channelling = (1 - 2.8 * square) * torch.exp(-2.4 * square)
    turns = shear * inner_collection_angle * 1e-3 / wavelength(beam_energy)
    coherence = torch.exp(-0.5 * (turns / COHERENCE) ** 2)
    return torch.where(coherence > channelling.abs(), coherence, channelling)
