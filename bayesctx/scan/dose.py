"""The dose of a scan, which signal and noise of its detectors imply."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .world import Scan

__all__ = ["dose_of", "log_prior_of_dose", "log_prior_of_signal", "precision_of_dose"]

NO_SLOPE = 1e-12  # of the variance, for a finite dose
NO_DOSE = 1e-30  # e/Å², for a finite logarithm where a signal is negative
DOSE_SPREAD = 0.05  # relative, of what detectors of one scan imply; gains are not quite noiseless
STEP_OF_DOSE = 0.01  # of its logarithm, for derivatives of its prior


def _log_doses(scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Logarithms of the doses in e/Å² that signal and noise of each detector imply, in double."""
    size = scan.field.sampling * (1 + values["strain"][0].double())
    slope = slope.double().clamp(min=NO_SLOPE)
    return (signal.double() / (slope * size**2)).clamp(min=NO_DOSE).log()


def dose_of(scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]) -> float:
    """Dose that signal and noise imply.

    Parameters
    ----------
    scan : Scan
        Gives the size of a pixel.
    signal : Tensor, shape (detector,)
        Intensity per fraction of the beam.
    slope : Tensor, shape (detector,)
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    float
        Electrons per Å² of the strained crystal, the geometric mean over the detectors.
    """
    return float(_log_doses(scan, signal, slope, values).mean().exp())


def log_prior_of_dose(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """Log prior density of the dose that signal and noise imply, up to a constant.

    Parameters
    ----------
    scan : Scan
        Gives the prior, and the size of a pixel.
    signal : Tensor, shape (detector,)
        Intensity per fraction of the beam.
    slope : Tensor, shape (detector,)
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    Tensor, shape ()
        Of the geometric mean of the doses that the detectors imply, and of their differences from
        it: one scan has one dose, up to the error ``DOSE_SPREAD`` of each. Zero if the dose is not
        looked at. Its derivatives are those of the prior between two doses that are nearly equal.
    """
    if scan.log_dose is None:
        return torch.zeros((), dtype=torch.float64)
    logs = _log_doses(scan, signal, slope, values)
    middle = logs.mean()
    known = torch.tensor(scan.log_dose(math.exp(float(middle.detach()))), dtype=torch.float64)
    if middle.requires_grad:
        known = known + (middle - middle.detach()) * _slope_of_dose(scan, float(middle.detach()))
    return known - 0.5 * ((logs - middle) / DOSE_SPREAD).square().sum()


def log_prior_of_signal(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """Log prior density of the signal given the noise, up to a constant.

    Parameters
    ----------
    scan : Scan
        Gives the prior of the dose, and the size of a pixel.
    signal : Tensor, shape (detector,)
        Intensity per fraction of the beam.
    slope : Tensor, shape (detector,)
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    Tensor, shape ()
        Flat in its logarithm, since a gain may have any size, but for the dose that it implies;
        minus infinity where a signal is not positive.
    """
    if not bool((signal > 0).all()):
        return torch.full((), -math.inf, dtype=torch.float64)
    known = log_prior_of_dose(scan, signal, slope, values)
    return known - signal.double().log().sum()


def _slope_of_dose(scan: Scan, log_dose: float) -> float:
    """Derivative of the log prior of the dose in its logarithm; zero where it is not finite."""
    low, high = (scan.log_dose(math.exp(log_dose + s * STEP_OF_DOSE)) for s in (-1, 1))
    slope = (high - low) / (2 * STEP_OF_DOSE)
    return slope if math.isfinite(slope) else 0.0


def precision_of_dose(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """Negative Hessian of the log prior of the dose in the logarithms of the signals.

    Parameters
    ----------
    scan : Scan
        Gives the prior, and the size of a pixel.
    signal : Tensor, shape (detector,)
        Intensity per fraction of the beam.
    slope : Tensor, shape (detector,)
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    Tensor, shape (detector, detector)
        In double precision, without negative eigenvalues.
    """
    num = len(signal)
    if scan.log_dose is None:
        return torch.zeros(num, num, dtype=torch.float64)
    log_dose = float(_log_doses(scan, signal, slope, values).mean())
    low, middle, high = (
        scan.log_dose(math.exp(log_dose + step)) for step in (-STEP_OF_DOSE, 0.0, STEP_OF_DOSE)
    )
    second = (2 * middle - low - high) / STEP_OF_DOSE**2
    second = max(0.0, second) if math.isfinite(second) else 0.0
    average = torch.full((num, num), 1 / num, dtype=torch.float64)
    return second * average / num + (torch.eye(num) - average) / DOSE_SPREAD**2
