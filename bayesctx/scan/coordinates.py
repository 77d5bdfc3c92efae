"""Coordinates of what an image shares: context, probe, tilt and vibration, with their prior."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..context import ANGLES, CONTEXT, Detector, is_annular_dark_field
from ..distributions import quantile
from ..nuisances import DOMAINS
from ..prior import CONTINUOUS
from .angles import NO_SHARE, Angles
from .scale_prior import ScalePrior, scale_priors

__all__ = ["PAIRS", "Coordinates"]

PAIRS = {"C12": ("phi12", 2), "C21": ("phi21", 1), "C23": ("phi23", 3), "tilt": ("tilt_azimuth", 1)}
"""Magnitudes with the azimuth that goes with them, and the multiplicity of the azimuth."""

SHARED = ("strain", "vibration", "source_size", "focal_spread", "C12", "C21", "C23", "C30", "tilt")
OF_DETECTOR = ("inner_collection_angle", "outer_collection_angle")
TRANSLATION = 0.1  # Å, one standard deviation of the common displacement
NEARLY_ONE = 1 - 1e-9  # largest probability of a magnitude, whose logarithm is taken
NO_DISTANCE = 1e-6  # from the origin, of a pair
LEAST_MASS = math.log(1e-9)  # of angles that go with those before them, below which none do
TRIES = 8  # draws of the shared variables until a detector goes with its probe
PARTS, DIVISIONS = 128, 6  # of an interval that holds a probability: to 2e-13
FARTHEST = 6.0  # standard deviations, of a coordinate of a point that is asked for


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Maps a vector of standard normal variables to the shared variables of an image.

    Attributes
    ----------
    condition : mapping of str to float or Distribution
        One condition of a prior, see ``Prior.conditions``.
    nuisances : mapping of str to float or Distribution
        See ``Prior.nuisances``.
    detectors : sequence of mapping of str to float or Distribution
        Collection angles of each detector; default: one detector with those of the condition.
    order : sequence of int
        Detectors whose angles increase: neither the inner nor the outer angle of one is smaller
        than that of the one before.

    Notes
    -----
    A variable is the quantile of its prior at the normal distribution function of its coordinate,
    so that the prior of the coordinates is standard normal, without bounds. An angle is the
    quantile among those that go with the angles before it, and the mass of these is a factor of the
    prior. A magnitude with an azimuth, which is uniform, has two coordinates: their distance from
    the origin is a half-normal variable at whose distribution function the magnitude is the
    quantile, so that the two are nearly proportional to its Cartesian components. Their direction
    is the azimuth, and a variable that is a number has no coordinate. The last two
    coordinates are a common displacement of all columns. The dose is not among them: it follows
    from signal and noise.
    """

    condition: Mapping[str, object]
    nuisances: Mapping[str, object]
    detectors: Sequence[Mapping[str, object]] = ()
    order: Sequence[int] = ()

    @property
    def num_detectors(self) -> int:
        """Number of detectors."""
        return max(1, len(self.detectors))

    @property
    def free(self) -> tuple[str, ...]:
        """Variables with a distribution; magnitudes stand for themselves and their azimuth."""
        return tuple(dict.fromkeys(name for name, _ in self._open()))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every coordinate."""
        parts = []
        for name, k in self._open():
            if name in OF_DETECTOR and self.detectors:
                parts.append(f"{name}_{k}")
            else:
                parts += [f"{name}_x", f"{name}_y"] if name in PAIRS else [name]
        return (*parts, "shift_x", "shift_y")

    def _open(self) -> list[tuple[str, int]]:
        """Variables with coordinates; those of a detector with its position, others with 0."""
        names = [n for n in CONTINUOUS if n != "dose"] + list(SHARED)
        each = ((n, k) for n in names for k in range(self._number(n)))
        return [(n, k) for n, k in each if self._is_open(n, k)]

    def _number(self, name: str) -> int:
        """How many there are of a variable."""
        return self.num_detectors if name in OF_DETECTOR else 1

    def _is_open(self, name: str, detector: int) -> bool:
        """Whether a variable, or the azimuth of a magnitude above zero, has a distribution."""
        if not isinstance(self._prior(name, detector), float | int):
            return True
        if name not in PAIRS or self._prior(name) == 0:
            return False
        return not isinstance(self._prior(PAIRS[name][0]), float | int)

    @functools.cached_property
    def scale_priors(self) -> dict[str, ScalePrior]:
        """Priors of ``jitter``, ``disorder``, ``additivity`` and ``scatter`` of a world."""
        return scale_priors(self.nuisances)

    @staticmethod
    def translation(z: Tensor) -> Tensor:
        """Common displacement of all columns.

        Parameters
        ----------
        z : Tensor, shape (coordinate,)
            Coordinates; the last two are the displacement over ``TRANSLATION``.

        Returns
        -------
        Tensor, shape (2,)
            (x, y) in Å.
        """
        return z[-2:] * TRANSLATION

    def _prior(self, name: str, detector: int = 0) -> object:
        """Number or distribution of a variable."""
        if name in OF_DETECTOR and self.detectors:
            return self.detectors[detector][name]
        return self.condition[name] if name in self.condition else self.nuisances.get(name, 0.0)

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """Variables at some points.

        Parameters
        ----------
        z : Tensor, shape (point, coordinate)
            Coordinates.

        Returns
        -------
        dict of str to Tensor, shape (point,)
            Context (without the dose) and shared nuisances by name, in their units; the collection
            angles have the shape (point, detector).
        """
        names = [n for n in CONTINUOUS if n != "dose"] + list(SHARED)
        names += [azimuth for azimuth, _ in PAIRS.values()]
        each = [(n, k) for n in names for k in range(self._number(n))]
        found = {
            (n, k): z.new_full((len(z),), v)
            for n, k in each
            if isinstance(v := self._prior(n, k), float | int)
        }
        columns = iter(z.unbind(-1))
        for name, k in self._open():
            first = next(columns)
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                second = next(columns)
                found.setdefault((azimuth, 0), torch.atan2(second, first) / fold)
                u = torch.erf(_distance(first, second) / math.sqrt(2))
            else:
                u = torch.special.ndtr(first)
            if name in ANGLES:
                found[name, k] = self._angles.within((name, k), u, found)
            elif (name, k) not in found:
                found[name, k] = quantile(self._prior(name, k), u, _domain(name))
        values = {azimuth: torch.zeros_like(z[:, 0]) for azimuth, _ in PAIRS.values()}
        values |= {n: v for (n, _), v in found.items() if n not in OF_DETECTOR}
        for name in OF_DETECTOR:
            values[name] = torch.stack([found[name, k] for k in range(self.num_detectors)], -1)
        return values

    @functools.cached_property
    def _angles(self) -> Angles:
        """What is known of the angles."""
        priors = {(n, k): self._prior(n, k) for n, k in self._open() if n in ANGLES}
        return Angles(priors, self.num_detectors, self.order)

    def of(self, values: Mapping[str, float]) -> Tensor:
        """Coordinates of one point.

        Parameters
        ----------
        values : mapping of str to float or Tensor
            Variables by name; the angles of several detectors as a sequence.

        Returns
        -------
        Tensor, shape (coordinate,)
            Double precision; of a value that cannot be under the prior those of the nearest one.
            There is no common displacement.
        """
        given, z = {}, []
        for name, k in self._open():
            if name in PAIRS:
                fixed = isinstance(self._prior(name, k), float | int)
                own = torch.tensor([float(values.get(name, 0.0))], dtype=torch.float64)
                u = torch.full_like(own, 0.5) if fixed else self._probabilities(name, k, own)
                azimuth, fold = PAIRS[name]
                angle, radius = fold * float(values.get(azimuth, 0.0)), float(_radius(u))
                z += [radius * math.cos(angle), radius * math.sin(angle)]
            else:
                own = torch.as_tensor(values.get(name, 0.0), dtype=torch.float64).reshape(-1)
                given[name, k] = own[min(k, len(own) - 1)][None]
                z.append(0.0)
        point = torch.tensor([[*z, 0.0, 0.0]], dtype=torch.float64)
        return self._placed(given, point)[0]

    def place(self, values: Mapping[str, Tensor], z: Tensor) -> Tensor:
        """Points at which some variables have given values.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (point,) or (point, detector)
            Variables without an azimuth; those that are not free are left out.
        z : Tensor, shape (point, coordinate)
            Where the others are.

        Returns
        -------
        Tensor, shape (point, coordinate)
            A copy.
        """
        given = {}
        for name, k in self._open():
            if name in values and name not in PAIRS:
                own = values[name].reshape(len(z), -1).double()
                given[name, k] = own[:, min(k, own.shape[1] - 1)]
        return self._placed(given, z)

    def _placed(self, given: Mapping[tuple[str, int], Tensor], z: Tensor) -> Tensor:
        """Points with the given values; angles bound each other, so that they come one by one."""
        placed, columns = z.clone(), self._columns()
        for (name, k), values in given.items():
            u = self._probabilities(name, k, values)
            if name in ANGLES:
                found = self._angles.before((name, k), self.values(placed))
                smallest, share = self._angles.room((name, k), found)
                u = (u - smallest) / share.clamp(min=NO_SHARE)
            normal = torch.special.ndtri(u.clamp(0, 1))
            placed[:, columns[name, k]] = normal.clamp(-FARTHEST, FARTHEST)
        return placed

    def _columns(self) -> dict[tuple[str, int], int]:
        """Position of the coordinate of every variable, the first of a pair."""
        found, position = {}, 0
        for name, k in self._open():
            found[name, k] = position
            position += 2 if name in PAIRS else 1
        return found

    def _probabilities(self, name: str, detector: int, values: Tensor) -> Tensor:
        """Probability of smaller values: not every prior has it in closed form."""
        prior, domain = self._prior(name, detector), _domain(name)
        steps = torch.arange(1, PARTS, dtype=values.dtype) / PARTS
        found, width = torch.zeros_like(values), 1.0
        for _ in range(DIVISIONS):
            below = quantile(prior, found[:, None] + width * steps, domain) < values[:, None]
            width /= PARTS
            found = found + width * below.sum(-1)
        return found + width / 2

    def log_prior(self, z: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Log prior density, up to a constant.

        Parameters
        ----------
        z : Tensor, shape (point, coordinate)
            Coordinates.
        values : mapping of str to Tensor, optional
            ``values`` there, if known.

        Returns
        -------
        Tensor, shape (point,)
            Minus infinity where a detector does not go with the probe, or detectors are not in
            their order.
        """
        values = self.values(z) if values is None else values
        log_mass = self._angles.log_mass(values)
        semiangle, rings = values["convergence_semiangle"][:, None], Detector.of(values)
        possible = is_annular_dark_field(semiangle, rings).all(-1) & (log_mass > LEAST_MASS)
        for low, high in itertools.pairwise(self.order):
            for edge in rings.edges:
                possible = possible & (edge[:, low] <= edge[:, high])
        value = log_mass - 0.5 * z.square().sum(-1) - self.distances(z).log().sum(-1)
        return torch.where(possible, value, -math.inf)

    @functools.cached_property
    def first_of_pairs(self) -> list[int]:
        """Positions of the first coordinates of the pairs."""
        return [k for (name, _), k in self._columns().items() if name in PAIRS]

    def distances(self, z: Tensor) -> Tensor:
        """Distances of the pairs from the origin, where the prior density is infinite.

        Parameters
        ----------
        z : Tensor, shape (..., coordinate)
            Coordinates.

        Returns
        -------
        Tensor, shape (..., pair)
            Half-normal, with a finite logarithm.
        """
        at = torch.tensor(self.first_of_pairs, dtype=torch.long)
        return _distance(z[..., at], z[..., at + 1])

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """Draw points of the prior.

        Parameters
        ----------
        num : int
            How many.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (point, coordinate)
            Double precision; at most ``num``, fewer if hardly any angles go with each other. There
            is a common displacement.
        """
        shape = TRIES * num, len(self.names)
        z = self.quantiles(torch.rand(shape, generator=generator, dtype=torch.float64))
        chance = self._angles.log_mass(self.values(z))
        kept = torch.rand(len(z), generator=generator, dtype=torch.float64).log() < chance
        return z[kept & (self.log_prior(z) > -math.inf)][:num]

    def quantiles(self, u: Tensor) -> Tensor:
        """Points for which every variable has its prior given those before it.

        Parameters
        ----------
        u : Tensor, shape (point, coordinate)
            Independent and uniform between 0 and 1, in double precision.

        Returns
        -------
        Tensor, shape (point, coordinate)
            Draws of the prior, but for the weight of angles that leave little room to others.
        """
        u = u.clamp(1 - NEARLY_ONE, NEARLY_ONE)
        z = torch.special.ndtri(u)
        for k in self.first_of_pairs:
            angle = 2 * math.pi * u[:, k + 1]
            z[:, k : k + 2] = _radius(u[:, k, None]) * torch.stack([angle.cos(), angle.sin()], -1)
        return z


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance of the coordinates of a pair from their origin, where it has a finite logarithm."""
    return (x.square() + y.square() + NO_DISTANCE**2).sqrt()


def _radius(u: Tensor) -> Tensor:
    """Distance of the coordinates of a pair from the origin, at a probability of smaller ones."""
    return torch.special.ndtri((1 + u.clamp(max=NEARLY_ONE)) / 2)


def _domain(name: str) -> tuple[float, float]:
    """Smallest and largest value that can be simulated."""
    return CONTEXT[name].domain if name in CONTEXT else DOMAINS[name]
