"""Whether an image is one that the simulator makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import beta, combine_pvalues

from ..scan import RARE, Coordinates
from ..storage import warn
from .claims import SCREENED, WHOLE

__all__ = [
    "MOST_CORRELATED",
    "MOST_MISFIT",
    "misfit_of",
    "signs_in_claims",
    "signs_in_residuals",
    "signs_in_scales",
    "warn_of_misfit",
]

MOST_MISFIT = 20.0  # nats beyond SCREENED, above which the simulator is not trusted
# of the residuals of neighbouring pixels: noise that is so correlated leaves what is even over
# several pixels (1 + r) / (1 - r) = 1.2 times more uncertain than noise of single pixels would
MOST_CORRELATED = 0.1
LEAST_TAIL = 1e-3  # prior probability of scales as large as those of an image
UNUSUAL, LEAST = 0.05, 1e-300  # that of a scale that is named, and the least that is counted
SCALES = {"additivity": "additivity", "amplitude_scatter": "scatter"}
"""Of what columns differ by from those of the simulator: their names in draws and in priors."""


def misfit_of(conflict: Mapping[str, float]) -> float:
    """How much worse an image is explained than it could be.

    Parameters
    ----------
    conflict : mapping of str to float
        From ``claims.conflict_by_pixels``.

    Returns
    -------
    float
        In nats, beyond what the errors of fits explain. Differences between hosts and assignments
        of the same size may come from what is wrong, in the context or in the model.
    """
    return max(0.0, conflict.get(WHOLE, 0.0) - SCREENED)


def signs_in_claims(conflict: Mapping[str, float]) -> tuple[str, ...]:
    """What tells, before worlds are drawn, that the simulator does not make an image.

    Parameters
    ----------
    conflict : mapping of str to float
        From ``claims.conflict_by_pixels``.

    Returns
    -------
    tuple of str
        At most one.
    """
    if misfit_of(conflict) <= MOST_MISFIT:
        return ()
    return (f"{conflict[WHOLE]:.0f} nats are lost by the context",)


def signs_in_residuals(correlation: np.ndarray) -> tuple[str, ...]:
    """What tells, before worlds are drawn, that noise is not that of single pixels.

    Parameters
    ----------
    correlation : ndarray, shape (detector, axis, lag)
        From ``scan.Fitted.correlation``.

    Returns
    -------
    tuple of str
        At most one.

    Notes
    -----
    What a fit does not explain is about as smooth as the probe, so that a pixel is like the next
    but one as well; noise of a detector that is slower than the scan, or of an image that was
    resampled, is like that of the next pixel only. So it is the difference that counts.
    """
    most = float((correlation[..., 0] - correlation[..., 1].clip(min=0)).max())
    if most <= MOST_CORRELATED:
        return ()
    return (f"noise of neighbouring pixels is correlated by {most:.2f}",)


def signs_in_scales(draws: Mapping[str, np.ndarray], coordinates: Coordinates) -> tuple[str, ...]:
    """What tells, in draws of the posterior, that the simulator does not make an image.

    Parameters
    ----------
    draws : mapping of str to ndarray, shape (image, draw, *batch)
        ``additivity``, ``amplitude_scatter`` and ``share_outlying``; what is known is absent.
    coordinates : Coordinates
        Give the priors of the first two.

    Returns
    -------
    tuple of str
        Unusual scales, if all together are as large in one of 1000 images of the prior.

    Notes
    -----
    Prior probabilities of scales as large as these are combined by Fisher's method: what the
    simulator does not make may raise several of them a little, or exchange one for another.

    References
    ----------
    Evans and Moshonov, Bayesian Analysis 1, 893 (2006), doi:10.1214/06-BA129.
    """
    priors = coordinates.scale_priors
    tails = {name: priors[scale].tail for name, scale in SCALES.items()}
    tails["share_outlying"] = beta(*RARE.tolist()).sf
    means = {n: float(draws[n].mean(1).max()) for n in tails if n in draws}
    found = {n: max(float(tails[n](v)), LEAST) for n, v in means.items()}
    if not found or combine_pvalues(list(found.values())).pvalue >= LEAST_TAIL:
        return ()
    return tuple(f"{n} = {means[n]:.2g}" for n, tail in found.items() if tail < UNUSUAL)


def warn_of_misfit(signs: Sequence[str], *, is_left: bool) -> None:
    """Warn of an image that the simulator does not make.

    Parameters
    ----------
    signs : sequence of str
        See ``signs_in_claims``, ``signs_in_residuals`` and ``signs_in_scales``.
    is_left : bool
        Whether the image is read by patches instead.

    Warns
    -----
    UserWarning
        If there are signs.
    """
    if not signs:
        return
    cause = (
        "a focus or tilt that varies over it, another crystal, a detector that is slower than the "
        "scan, or what was done to it"
    )
    advice = (
        "so it is read by patches; crop it, or pass likelihood='simulator'"
        if is_left
        else "its classes are less certain than they seem; crop it, or pass likelihood='network'"
    )
    warn(
        f"an image that the simulator makes was expected, got signs of another "
        f"({', '.join(signs)}), as of {cause}: {advice}"
    )
