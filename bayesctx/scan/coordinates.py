"""Coordinates of what an image shares: open context, probe, tilt and vibration, with their prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution as Distribution
from scipy.stats import qmc
from torch import Tensor

from ..context import CONTEXT, Detector, is_annular_dark_field
from ..distributions import quantile, support
from ..nuisances import DOMAINS
from ..prior import CONTINUOUS

__all__ = ["Coordinates"]

PAIRS = {"C12": ("phi12", 2), "C21": ("phi21", 1), "C23": ("phi23", 3), "tilt": ("tilt_azimuth", 1)}
"""Magnitudes with the azimuth that goes with them, and the multiplicity of the azimuth."""

SHARED = ("strain", "vibration", "source_size", "focal_spread", "C12", "C21", "C23", "C30", "tilt")
LOGARITHMIC = ("beam_energy", "inner_collection_angle", "outer_collection_angle", "dose")
EVEN = ("defocus", "C12_x", "C12_y", "C30")
TYPICAL = {
    "beam_energy": 0.2,
    "convergence_semiangle": 2.0,
    "inner_collection_angle": 0.2,
    "outer_collection_angle": 0.2,
    "defocus": 20.0,
    "strain": 0.01,
    "vibration": 0.1,
    "source_size": 0.2,
    "focal_spread": 10.0,
    "C12": 10.0,
    "C21": 100.0,
    "C23": 100.0,
    "C30": 1e4,
    "tilt": 2.0,
}
"""Scale of every variable, in its unit or in that of its logarithm: the unit of its coordinate."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Maps a vector of real numbers to the shared variables of an image.

    Parameters
    ----------
    condition : mapping of str to float or Distribution
        One condition of a prior, see ``Prior.conditions``.
    nuisances : mapping of str to float or Distribution
        See ``Prior.nuisances``.

    Notes
    -----
    A magnitude with an azimuth becomes two Cartesian coordinates; energy and collection angles
    are logarithmic; every coordinate is in units of a typical change. A variable that is a number
    has no coordinate. The dose is not among them: it follows from signal and noise.
    """

    condition: Mapping[str, object]
    nuisances: Mapping[str, object]

    @property
    def free(self) -> tuple[str, ...]:
        """Variables with a distribution; magnitudes stand for themselves and their azimuth."""
        values = {**self.nuisances, **self.condition}
        names = [n for n in CONTINUOUS if n != "dose"] + list(SHARED)
        return tuple(n for n in names if isinstance(values.get(n), torch.distributions.Distribution))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every coordinate."""
        return tuple(
            part for n in self.free for part in ((f"{n}_x", f"{n}_y") if n in PAIRS else (n,))
        )

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
        fixed = {n: self.condition[n] for n in CONTINUOUS if n != "dose"}
        fixed |= {n: self.nuisances.get(n, 0.0) for n in SHARED}
        fixed |= {azimuth: self.nuisances.get(azimuth, 0.0) for azimuth, _ in PAIRS.values()}
        found = {n: z.new_full((len(z),), v) for n, v in fixed.items() if isinstance(v, float | int)}
        columns = iter(z.unbind(-1))
        for name in self.free:
            first = next(columns) * TYPICAL[name]
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                second = next(columns) * TYPICAL[name]
                found[name] = torch.hypot(first, second)
                found[azimuth] = torch.atan2(second, first) / fold
            else:
                found[name] = first.exp() if name in LOGARITHMIC else first
        return found

    def of(self, values: Mapping[str, float]) -> Tensor:
        """Coordinates of one point.

        Parameters
        ----------
        values : mapping of str to float
            Variables by name.

        Returns
        -------
        Tensor, shape (coordinate,)
            Its coordinates, double precision.
        """
        z = []
        for name in self.free:
            value = float(values[name])
            if name in PAIRS:
                azimuth, fold = PAIRS[name]
                angle = fold * float(values.get(azimuth, 0.0))
                z += [value * math.cos(angle), value * math.sin(angle)]
                z[-2:] = [v / TYPICAL[name] for v in z[-2:]]
            else:
                z.append((math.log(value) if name in LOGARITHMIC else value) / TYPICAL[name])
        return torch.tensor(z, dtype=torch.float64)

    def draw(self, num: int, seed: int) -> Tensor:
        """Draw from the prior, quasi-randomly.

        Parameters
        ----------
        num, seed : int
            Number of points, seed of the scrambling.

        Returns
        -------
        Tensor, shape (point, coordinate)
            Fewer than ``num`` points where the detector does not go with the probe.
        """
        prior = {**self.nuisances, **self.condition}
        azimuths = [PAIRS[n][0] for n in self.free if n in PAIRS]
        names = [*self.free, *azimuths]
        points = qmc.Sobol(len(names), seed=seed).random(num)
        drawn = {
            n: quantile(prior[n], torch.from_numpy(u), _domain(n))
            for n, u in zip(names, points.T, strict=True)
        }
        z = torch.stack([self.of({n: v[i] for n, v in drawn.items()}) for i in range(num)])
        return z[self.log_prior(z) > -math.inf]

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
        even = z.new_tensor([-1.0 if n in EVEN else 1.0 for n in names])
        tilt = z.new_tensor([-1.0 if n.startswith("tilt") else 1.0 for n in names])
        return [(z * even, False), (z * tilt, True), (z * even * tilt, True)]

    def log_prior(self, z: Tensor) -> Tensor:
        """Log prior density, up to a constant.

        Parameters
        ----------
        z : Tensor, shape (point, coordinate)
            Coordinates.

        Returns
        -------
        Tensor, shape (point,)
            Minus infinity where a variable is outside of its domain, or the detector does not go
            with the probe.
        """
        values = self.values(z)
        prior = {**self.nuisances, **self.condition}
        total = torch.zeros_like(z[:, 0])
        for name in self.free:
            v = values[name]
            total = total + _log_density(prior[name], v, _domain(name))
            if name in LOGARITHMIC:
                total = total + v.log()
            if name in PAIRS:  # density of a point in the plane from that of its radius
                total = total - v.clamp(min=1e-6).log()
        possible = is_annular_dark_field(values["convergence_semiangle"], Detector.of(values))
        return torch.where(possible, total, -math.inf)


def _domain(name: str) -> tuple[float, float]:
    """Smallest and largest value that can be simulated."""
    return CONTEXT[name].domain if name in CONTEXT else DOMAINS[name]


def _log_density(prior: Distribution, values: Tensor, domain: tuple[float, float]) -> Tensor:
    """Log density, minus infinity outside of support and domain."""
    low, high = support(prior)
    single = values.float()
    inside = (single > max(low, domain[0])) & (single < min(high, domain[1]))
    safe = torch.where(inside, single, _inside(prior))
    return torch.where(inside, prior.log_prob(safe).to(values), -math.inf)


def _inside(prior: Distribution) -> Tensor:
    """Any value of the support."""
    value = getattr(prior, "base_dist", prior).mean
    for transform in getattr(prior, "transforms", ()):
        value = transform(value)
    return value
