"""Moves of the shared variables: climbing to a mode, and drawing around it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .dose import log_prior_of_signal
from .regression import Regression
from .signal import regress_species
from .view import View, look, render, spectra_of
from .world import Scan, World

__all__ = ["State", "climb", "evaluate", "image_slopes", "linearise", "settle"]

DIFFERENCE = 0.02  # of a coordinate, for slopes
CLIP = 4.0  # standard deviations of a pixel, of its pull on a climb
LONGEST = 0.7  # of a coordinate, in one step of a climb
TRIES = 6  # of one step of a climb, each more damped than the one before
DAMPING, LEAST_DAMPING = 1e-2, 1e-5  # relative to the diagonal of the Hessian
HARDER, EASIER = 6.0, 5.0  # factors of the damping after a step that is refused, or taken
GAIN = 0.5  # nats, below which a climb ends
ROUNDS = 2  # linearisations of a climb
SECANTS = 3  # steps at most between two linearisations, each at a tenth of the cost of one


@dataclass(frozen=True, eq=False)
class State:
    """Log density of the shared variables at one point, given the rest of a world.

    Attributes
    ----------
    z : Tensor, shape (coordinate,)
        The point.
    log_density : Tensor, shape ()
        With what is linear summed out; minus infinity where the point cannot be.
    regression : Regression
        Of what is linear.
    shared : tuple
        Shared variables and spectra, those of the species that occur unless given.
    """

    z: Tensor
    log_density: Tensor
    regression: Regression | None = None
    shared: tuple | None = None

    @property
    def log_prob(self) -> float:
        """The log density as a number."""
        return float(self.log_density)

    def log_density_with_signal(self, scan: Scan, slope: Tensor) -> Tensor:
        """Log density with the prior of the signal, at the size that is expected.

        Parameters
        ----------
        scan : Scan
            Gives the prior.
        slope : Tensor, shape (detector,)
            Increase of the variance with the intensity.

        Returns
        -------
        Tensor, shape ()
            Minus infinity where the point cannot be.
        """
        if self.regression is None:
            return self.log_density
        given = self.regression.size_of_signal, slope, self.shared[0]
        return self.log_density + log_prior_of_signal(scan, *given)


def evaluate(scan: Scan, world: World, view: View, z: Tensor, shared: tuple | None = None) -> State:
    """Log density of the shared variables, given the sites, the rows and the noise.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest; the variance of the noise stays as it is.
    z : Tensor, shape (coordinate,)
        Where.
    shared : tuple, optional
        ``spectra_of`` there, if known.

    Returns
    -------
    State
        There; with a log density of minus infinity where the detector does not go with the probe,
        or the image is no finite number.
    """
    values = shared[0] if shared else scan.coordinates.values(z[None])
    prior = scan.coordinates.log_prior(z[None], values)[0]
    if not bool(prior.isfinite()):
        return State(z, torch.full_like(prior, -math.inf))
    shared = shared or spectra_of(scan, z, view.used, values)
    images = render(scan, shared[1], view.factors, world.row_shift)
    if not bool(images.isfinite().all()):
        return State(z, torch.full_like(prior, -math.inf))
    found = regress_species(scan, world, shared[0], images, view.variance)
    return State(z, found.evidence + prior, found, shared)


def image_slopes(scan: Scan, world: World, view: View) -> tuple[Tensor, Tensor]:
    """Change of the fitted image, and of its signal, with every coordinate, by differences.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where, and the rest.

    Returns
    -------
    of_image : Tensor, shape (coordinate, pixel)
        What is linear is fitted at every point; pixels of all detectors. Zero where a detector does
        not go with the probe on either side.
    of_signal : Tensor, shape (coordinate, detector)
        Relative.
    """
    here = evaluate(scan, world, view, world.z)
    expected, size = here.regression.expected, here.regression.size_of_signal.double()
    slopes, of_signal = [], []
    for i in range(len(world.z)):
        for change in (DIFFERENCE, -DIFFERENCE):
            z = world.z.clone()
            z[i] += change
            there = evaluate(scan, world, view, z)
            if there.regression is not None:
                break
        else:
            there, change = here, 1.0
        slopes.append((there.regression.expected - expected).flatten() / change)
        of_signal.append((there.regression.size_of_signal / size - 1) / change)
    return torch.stack(slopes), torch.stack(of_signal)


def linearise(scan: Scan, world: World, view: View) -> tuple[Tensor, Tensor]:
    """Linearise the image in the shared variables.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where, and the rest.

    Returns
    -------
    weighted : Tensor, shape (coordinate, pixel)
        Slopes of the fitted image over the variance.
    hessian : Tensor, shape (coordinate, coordinate)
        Negative Hessian of the log density, by Gauss and Newton.
    """
    return _hessian(image_slopes(scan, world, view)[0], view)


def _hessian(slopes: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Slopes over the variance, and the negative Hessian with the standard normal prior."""
    weighted = slopes / view.variance.flatten()
    return weighted, (weighted @ slopes.T).double() + torch.eye(len(slopes), dtype=torch.float64)


def climb(scan: Scan, world: World, view: View, rounds: int = ROUNDS) -> tuple[World, View, float]:
    """Climb towards the nearest mode of the shared variables (Levenberg and Marquardt).

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where to begin, and the rest.
    rounds : int
        Linearisations at most; between two of them slopes are updated along ``SECANTS`` steps.

    Returns
    -------
    world : World
        At the mode, with signal and film fitted.
    view : View
        What follows from it, but for the variance.
    log_prob : float
        At the mode.

    References
    ----------
    Broyden, Mathematics of Computation 19, 577 (1965), doi:10.1090/S0025-5718-1965-0198670-6.
    """
    state, damping = evaluate(scan, world, view, world.z), DAMPING
    for _ in range(rounds):
        slopes, _ = image_slopes(scan, replace(world, z=state.z), view)
        found, damping = _step(scan, world, view, state, slopes, damping, TRIES)
        gain = found.log_prob - state.log_prob
        for _ in range(SECANTS):
            if gain < GAIN:
                break
            slopes, state = _updated(slopes, state, found), found
            found, damping = _step(scan, world, view, state, slopes, damping, 1)
            gain = found.log_prob - state.log_prob
        state = found
        if gain < GAIN:
            break
    world, view = _arrive(scan, world, view, state)
    return world, view, state.log_prob


def _step(
    scan: Scan, world: World, view: View, state: State, slopes: Tensor, damping: float, tries: int
) -> tuple[State, float]:
    """A damped step by some slopes of the image, and the next damping; the same state if none."""
    weighted, hessian = _hessian(slopes, view)
    width = view.variance.sqrt()
    rest = (scan.image - state.regression.expected).clamp(-CLIP * width, CLIP * width).flatten()
    gradient = (weighted @ rest).double() - state.z
    for _ in range(tries):
        damped = hessian + damping * torch.diag(hessian.diagonal())
        step = torch.linalg.solve(damped, gradient).clamp(-LONGEST, LONGEST)
        found = evaluate(scan, world, view, state.z + step)
        if found.log_prob > state.log_prob:
            return found, max(damping / EASIER, LEAST_DAMPING)
        damping *= HARDER
    return state, damping


def _updated(slopes: Tensor, before: State, after: State) -> Tensor:
    """Slopes that agree with the change of the image along a step (Broyden's update)."""
    step = (after.z - before.z).float()
    change = (after.regression.expected - before.regression.expected).flatten()
    return slopes + torch.outer(step, change - step @ slopes) / step.square().sum()


def _arrive(scan: Scan, world: World, view: View, state: State) -> tuple[World, View]:
    """World and view at a state; the common displacement is put into the columns."""
    world = replace(world, z=state.z)
    if bool(scan.coordinates.translation(state.z).any()):
        world = settle(scan, world)
        found = look(scan, world)
    else:
        found = look(scan, world, factors=view.factors)
    return world, replace(found, variance=view.variance)


def settle(scan: Scan, world: World) -> World:
    """Put the common displacement of the coordinates into the columns.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The world.

    Returns
    -------
    World
        The same world.
    """
    shift = scan.coordinates.translation(world.z).float()
    z, drift = world.z.clone(), world.drift.clone()
    z[-2:] = 0
    drift[0] += shift
    return replace(world, z=z, drift=drift, shift=world.shift + shift)
