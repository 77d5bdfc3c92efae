"""Coordinates of what an image shares: context, probe, tilt and vibration, with their prior."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..context import CONTEXT, Detector, is_annular_dark_field
from ..distributions import quantile
from ..nuisances import DOMAINS
from ..prior import CONTINUOUS
from .scale_prior import ScalePrior, scale_priors

__all__ = ["PAIRS", "Coordinates"]

PAIRS = {"C12": ("phi12", 2), "C21": ("phi21", 1), "C23": ("phi23", 3), "tilt": ("tilt_azimuth", 1)}
"""Magnitudes with the azimuth that goes with them, and the multiplicity of the azimuth."""

SHARED = ("strain", "vibration", "source_size", "focal_spread", "C12", "C21", "C23", "C30", "tilt")
OF_DETECTOR = ("inner_collection_angle", "outer_collection_angle")
EVEN = ("defocus", "C30")  # change sign with C12, see Coordinates.partners
TRANSLATION = 0.1  # Å, one standard deviation of the common displacement
NEARLY_ONE = 1 - 1e-9  # largest probability of a magnitude, whose logarithm is taken
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
    so that the prior of the coordinates is standard normal, without bounds. A magnitude with an
    azimuth, which is uniform, has two coordinates: their distance from the origin gives the
    magnitude, their direction the azimuth. A variable that is a number has none. The last two
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
        names = [n for n in CONTINUOUS if n not in ("dose", *OF_DETECTOR)] + list(SHARED)
        names += [azimuth for azimuth, _ in PAIRS.values()]
        numbers = {n: self._prior(n) for n in names}
        found = {
            n: z.new_full((len(z),), v) for n, v in numbers.items() if isinstance(v, float | int)
        }
        angles = {
            (n, k): z.new_full((len(z),), v)
            for n, k in itertools.product(OF_DETECTOR, range(self.num_detectors))
            if isinstance(v := self._prior(n, k), float | int)
        }
        columns = iter(z.unbind(-1))
        for name, k in self._open():
            first = next(columns)
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                second = next(columns)
                found.setdefault(azimuth, torch.atan2(second, first) / fold)
                u = -torch.expm1(-(first.square() + second.square()) / 2)
            else:
                u = torch.special.ndtr(first)
            if name in OF_DETECTOR:
                angles[name, k] = quantile(self._prior(name, k), u, _domain(name))
            elif name not in found:
                found[name] = quantile(self._prior(name), u, _domain(name))
        for name in OF_DETECTOR:
            found[name] = torch.stack([angles[name, k] for k in range(self.num_detectors)], -1)
        return {a: torch.zeros_like(z[:, 0]) for a, _ in PAIRS.values()} | found

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
        z = []
        for name, k in self._open():
            fixed = isinstance(self._prior(name, k), float | int)
            own = values.get(name, 0.0)
            value = float(torch.as_tensor(own, dtype=torch.float64).reshape(-1)[k])
            u = 0.5 if fixed else self._probability(name, k, value)
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                angle = fold * float(values.get(azimuth, 0.0))
                radius = min(math.sqrt(-2 * math.log1p(-min(u, NEARLY_ONE))), FARTHEST)
                z += [radius * math.cos(angle), radius * math.sin(angle)]
            else:
                normal = torch.special.ndtri(torch.tensor(u, dtype=torch.float64))
                z.append(float(normal.clamp(-FARTHEST, FARTHEST)))
        return torch.tensor([*z, 0.0, 0.0], dtype=torch.float64)

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
        found, names = z.clone(), self.names
        for name, k in self._open():
            if name in PAIRS or name not in values:
                continue
            own = values[name].reshape(len(z), -1).double()
            u = self._probabilities(name, k, own[:, min(k, own.shape[1] - 1)])
            normal = torch.special.ndtri(u).clamp(-FARTHEST, FARTHEST)
            column = f"{name}_{k}" if name in OF_DETECTOR and self.detectors else name
            found[:, names.index(column)] = normal
        return found

    def _probability(self, name: str, detector: int, value: float) -> float:
        """Probability of smaller values."""
        values = torch.tensor([value], dtype=torch.float64)
        return float(self._probabilities(name, detector, values))

    def _probabilities(self, name: str, detector: int, values: Tensor) -> Tensor:
        """Probability of smaller values, by bisection: not every prior has it in closed form."""
        low, high = torch.zeros_like(values), torch.ones_like(values)
        for _ in range(40):  # to 1e-12
            middle = (low + high) / 2
            below = quantile(self._prior(name, detector), middle, _domain(name)) < values
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def log_prior(self, z: Tensor) -> Tensor:
        """Log prior density, up to a constant.

        Parameters
        ----------
        z : Tensor, shape (point, coordinate)
            Coordinates.

        Returns
        -------
        Tensor, shape (point,)
            Minus infinity where a detector does not go with the probe, or detectors are not in
            their order.
        """
        values = self.values(z)
        semiangle, rings = values["convergence_semiangle"][:, None], Detector.of(values)
        possible = is_annular_dark_field(semiangle, rings).all(-1)
        for low, high in itertools.pairwise(self.order):
            for edge in rings.edges:
                possible = possible & (edge[:, low] <= edge[:, high])
        return torch.where(possible, -0.5 * z.square().sum(-1), -math.inf)

    def partners(self, z: Tensor) -> list[tuple[Tensor, bool]]:
        """Points that give nearly the same image, and whether the layer is turned upside down.

        Parameters
        ----------
        z : Tensor, shape (coordinate,)
            Coordinates.

        Returns
        -------
        list of tuple of Tensor and bool
            Three points.

        Notes
        -----
        |psi|² is the same for chi(k) and -chi(-k): for the opposite defocus, twofold astigmatism
        and spherical aberration together; what tells them apart is the depth of the atoms. A
        layer that is tilted the other way is the layer upside down.
        """
        names = self.names
        values = {n: v[0] for n, v in self.values(z[None]).items()}
        even = {n: -values[n] for n in EVEN} | {"phi12": values["phi12"] + math.pi / 2}
        tilt = z.new_tensor([-1.0 if n.startswith("tilt") else 1.0 for n in names])
        opposite = self.of(values | even)
        opposite[-2:] = z[-2:]
        return [(opposite, False), (z * tilt, True), (opposite * tilt, True)]


def _domain(name: str) -> tuple[float, float]:
    """Smallest and largest value that can be simulated."""
    return CONTEXT[name].domain if name in CONTEXT else DOMAINS[name]
