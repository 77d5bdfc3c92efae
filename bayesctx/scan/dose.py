"""The dose of a scan, which signal and noise of its detectors imply."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .world import Scan

__all__ = ["dose_of", "log_prior_of_dose", "pull_of_dose"]

NO_SLOPE = 1e-12  # of the variance, for a finite dose
NO_DOSE = 1e-30  # e/Å², for a finite logarithm where a signal is negative
DOSE_SPREAD = 0.05  # relative, of what detectors of one scan imply; gains are not quite noiseless
STEP_OF_DOSE = 0.01  # of its logarithm, for derivatives of its prior


def _log_doses(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> list[float]:
    """Logarithms of the doses in e/Å² that signal and noise of each detector imply."""
    size = scan.field.sampling * (1 + float(values["strain"]))
    pairs = zip(signal.tolist(), slope.tolist(), strict=True)
    return [math.log(max(s / (max(n, NO_SLOPE) * size**2), NO_DOSE)) for s, n in pairs]


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
    logs = _log_doses(scan, signal, slope, values)
    return math.exp(sum(logs) / len(logs))


def log_prior_of_dose(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> float:
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
    float
        Of the geometric mean of the doses that the detectors imply, and of their differences from
        it: one scan has one dose, up to the error ``DOSE_SPREAD`` of each. Zero if the dose is not
        looked at.
    """
    if scan.log_dose is None:
        return 0.0
    logs = _log_doses(scan, signal, slope, values)
    middle = sum(logs) / len(logs)
    apart = sum(((own - middle) / DOSE_SPREAD) ** 2 for own in logs)
    return scan.log_dose(math.exp(middle)) - 0.5 * apart


def pull_of_dose(
    scan: Scan, signal: Tensor, slope: Tensor, values: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Derivatives of the log prior of the dose in the logarithms of the signals.

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
    gradient : Tensor, shape (detector,)
        Double precision, as the next one.
    known : Tensor, shape (detector, detector)
        Negative Hessian, without negative eigenvalues.
    """
    num = len(signal)
    if scan.log_dose is None:
        return torch.zeros(num).double(), torch.zeros(num, num).double()
    logs = torch.tensor(_log_doses(scan, signal, slope, values), dtype=torch.float64)
    low, middle, high = (
        scan.log_dose(math.exp(float(logs.mean()) + step))
        for step in (-STEP_OF_DOSE, 0.0, STEP_OF_DOSE)
    )
    first = (high - low) / (2 * STEP_OF_DOSE)
    second = max(0.0, (2 * middle - low - high) / STEP_OF_DOSE**2)
    average = torch.full((num, num), 1 / num, dtype=torch.float64)
    known = second * average / num + (torch.eye(num) - average) / DOSE_SPREAD**2
    return first / num - (logs - logs.mean()) / DOSE_SPREAD**2, known
