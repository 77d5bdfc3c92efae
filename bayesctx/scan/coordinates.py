"""Coordinates of what an image shares: context, probe, tilt and vibration, with their prior."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
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

    @property
    def free(self) -> tuple[str, ...]:
        """Variables with a distribution; magnitudes stand for themselves and their azimuth."""
        names = [n for n in CONTINUOUS if n != "dose"] + list(SHARED)
        return tuple(n for n in names if self._is_open(n))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every coordinate."""
        parts = (((f"{n}_x", f"{n}_y") if n in PAIRS else (n,)) for n in self.free)
        return (*itertools.chain(*parts), "shift_x", "shift_y")

    def _is_open(self, name: str) -> bool:
        """Whether a variable, or the azimuth of a magnitude above zero, has a distribution."""
        if not isinstance(self._prior(name), float | int):
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

    def _prior(self, name: str) -> object:
        """Number or distribution of a variable."""
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
            Context (without the dose) and shared nuisances by name, in their units.
        """
        names = [n for n in CONTINUOUS if n != "dose"] + list(SHARED)
        names += [azimuth for azimuth, _ in PAIRS.values()]
        numbers = {n: self._prior(n) for n in names}
        found = {
            n: z.new_full((len(z),), v) for n, v in numbers.items() if isinstance(v, float | int)
        }
        columns = iter(z.unbind(-1))
        for name in self.free:
            first = next(columns)
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                second = next(columns)
                found.setdefault(azimuth, torch.atan2(second, first) / fold)
                u = -torch.expm1(-(first.square() + second.square()) / 2)
            else:
                u = torch.special.ndtr(first)
            if name not in found:
                found[name] = quantile(self._prior(name), u, _domain(name))
        return {a: torch.zeros_like(z[:, 0]) for a, _ in PAIRS.values()} | found

    def of(self, values: Mapping[str, float]) -> Tensor:
        """Coordinates of one point.

        Parameters
        ----------
        values : mapping of str to float
            Variables by name.

        Returns
        -------
        Tensor, shape (coordinate,)
            Double precision; of a value that cannot be under the prior those of the nearest one.
            There is no common displacement.
        """
        z = []
        for name in self.free:
            fixed = isinstance(self._prior(name), float | int)
            u = 0.5 if fixed else self._probability(name, float(values[name]))
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
        values : mapping of str to Tensor, shape (point,)
            Variables without an azimuth; those that are not free are left out.
        z : Tensor, shape (point, coordinate)
            Where the others are.

        Returns
        -------
        Tensor, shape (point, coordinate)
            A copy.
        """
        found, names = z.clone(), self.names
        for name in set(values) & set(self.free):
            u = self._probabilities(name, values[name].double())
            normal = torch.special.ndtri(u).clamp(-FARTHEST, FARTHEST)
            found[:, names.index(name)] = normal
        return found

    def _probability(self, name: str, value: float) -> float:
        """Probability of smaller values."""
        return float(self._probabilities(name, torch.tensor([value], dtype=torch.float64)))

    def _probabilities(self, name: str, values: Tensor) -> Tensor:
        """Probability of smaller values, by bisection: not every prior has it in closed form."""
        low, high = torch.zeros_like(values), torch.ones_like(values)
        for _ in range(40):  # to 1e-12
            middle = (low + high) / 2
            below = quantile(self._prior(name), middle, _domain(name)) < values
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
            Minus infinity where the detector does not go with the probe.
        """
        values = self.values(z)
        possible = is_annular_dark_field(values["convergence_semiangle"], Detector.of(values))
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
        values = {n: float(v) for n, v in self.values(z[None]).items()}
        even = {n: -values[n] for n in EVEN} | {"phi12": values["phi12"] + math.pi / 2}
        tilt = z.new_tensor([-1.0 if n.startswith("tilt") else 1.0 for n in names])
        opposite = self.of(values | even)
        opposite[-2:] = z[-2:]
        return [(opposite, False), (z * tilt, True), (opposite * tilt, True)]


def _domain(name: str) -> tuple[float, float]:
    """Smallest and largest value that can be simulated."""
    return CONTEXT[name].domain if name in CONTEXT else DOMAINS[name]
