"""Log density of a whole scan and what is behind it, by its Pyro program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ..scan import Scan, World
from ..scan.dose import log_prior_of_dose
from ..scan.generative import WIDE_LOG, sample_scan_program, sample_sites, values_of
from ..scan.view import variance_of

__all__ = ["Target", "chance", "log_prior_of_sites"]

OF_SITES = "species", "is_wide", "is_coarse", "own", "excess", "is_misleading", "other"


def _nothing(world: World) -> float:
    """Nothing else is known of a world."""
    return 0.0


@dataclass(frozen=True, eq=False)
class Target:
    """The posterior density of the worlds behind a scan, which transitions leave invariant.

    Attributes
    ----------
    power : float
        Of the density of the pixels: one, or less where chains shall leave modes.
    known : callable
        Log density, up to a constant, of what is known of a world beside the program; default:
        nothing. Tests give signal and noise, whose priors are all but flat, one that can be drawn
        from.

    Notes
    -----
    The common displacement of the coordinates, which only a search needs, is zero.
    """

    power: float = 1.0
    known: Callable[[World], float] = _nothing

    def log_density(self, scan: Scan, world: World, shared: tuple | None = None) -> float:
        """Log density of the program, up to a constant.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            What is behind it.
        shared : tuple, optional
            ``spectra_of`` its coordinates, if known.

        Returns
        -------
        float
            In nats; minus infinity where a world cannot be.
        """
        prior = scan.coordinates.log_prior(world.z[None])
        positive = torch.cat([world.signal, world.slope]) > 0
        if not bool(prior.isfinite() & positive.all()):
            return -math.inf
        conditioned = pyro.condition(sample_scan_program, data=values_of(scan, world))
        with torch.no_grad():
            trace = pyro.poutine.trace(conditioned).get_trace(scan, shared)
        law = trace.nodes["pixels"]["fn"]
        pixels = _log_normal(scan, law.mean, law.variance)
        trace.remove_node("pixels")
        total = float(trace.log_prob_sum()) + self.power * pixels + self.known(world)
        return total if math.isfinite(total) else -math.inf

    def log_pixels(self, scan: Scan, world: World, expected: Tensor) -> float:
        """Log density of the valid pixels with what depends on the noise alone.

        Parameters
        ----------
        scan : Scan
            The scan.
        world : World
            Gives signal and noise.
        expected : Tensor, shape (detector, y, x)
            Expected intensities.

        Returns
        -------
        float
            In nats, times the power.
        """
        variance = variance_of(scan, expected, world.floor, world.slope)
        return self.power * _log_normal(scan, expected, variance)

    def log_noise(self, scan: Scan, world: World, values: dict[str, Tensor]) -> float:
        """Log prior of signal and noise.

        Parameters
        ----------
        scan : Scan
            Gives the prior of the dose.
        world : World
            Gives signal and noise.
        values : dict of str to Tensor
            The shared variables.

        Returns
        -------
        float
            With the prior of the dose that they imply.
        """
        known = log_prior_of_dose(scan, world.signal, world.slope, values)
        known = known - 0.5 * (world.slope.double().log() / WIDE_LOG).square().sum()
        return float(known) + self.known(world)


def _log_normal(scan: Scan, expected: Tensor, variance: Tensor) -> float:
    """Log density of the valid pixels, in double precision."""
    square, variance = scan.seen((scan.image - expected).square()), scan.seen(variance)
    return -0.5 * float((square / variance + (2 * math.pi * variance).log()).sum())


def log_prior_of_sites(scan: Scan, world: World) -> Tensor:
    """Log prior density of what every site holds, and of its column.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        What is behind it.

    Returns
    -------
    Tensor, shape (site,)
        By the program, given abundances, scales, shares and mean displacement; zero for sites that
        are not drawn.
    """
    data = {n: v for n, v in values_of(scan, world).items() if n in OF_SITES}
    conditioned = pyro.condition(sample_sites, data=data)
    trace = pyro.poutine.trace(conditioned).get_trace(scan, world)
    trace.compute_log_prob()
    return sum(trace.nodes[n]["log_prob"] for n in OF_SITES).double()


def chance(log_ratio: float) -> float:
    """Probability with which a proposal is taken.

    Parameters
    ----------
    log_ratio : float
        Of the ratio of acceptance.

    Returns
    -------
    float
        Zero where the ratio is not a number.
    """
    return math.exp(min(log_ratio, 0.0)) if log_ratio == log_ratio else 0.0
