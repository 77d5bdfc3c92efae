"""Whether a micrograph is read by patches or by all of its pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ..checks import shorten
from ..context import LIKELIHOODS
from ..storage import warn
from .arrays import Posterior

__all__ = [
    "BY_PIXELS",
    "Way",
    "check_detectors",
    "check_exact_size",
    "check_likelihood",
    "check_patches",
    "is_by_pixels",
    "refuse_pixels",
]

BY_PIXELS = ("simulator", "exact")  # likelihoods of all pixels at once
LEAST_DOSE = 3e3  # e/Å², below which single columns do not tell more than patches
DELAY = 1.0  # s, before which no bar is shown
MOST_SITES = 100_000  # that are read by all pixels without being asked to: half an hour
CHANGED = ("clipped", "gamma", "inverted")  # intensities that the simulator does not make
HOURS_PER_SITE = 3e-3  # of the exact model, at the default number of draws
MOST_EXACT = 1000  # inside of an image that is read by the exact model, which has no windows


@dataclass(frozen=True)
class Way:
    """How a micrograph is read.

    Attributes
    ----------
    likelihood : str
        One of ``context.LIKELIHOODS``.
    progress : bool or None
        Whether progress is shown; None: in a terminal.
    """

    likelihood: str
    progress: bool | None

    def bar(self, total: int, what: str, unit: str) -> tqdm:
        """Progress of the network, which is quick: shown after a second, removed at the end.

        Parameters
        ----------
        total : int
            Number of steps.
        what, unit : str
            Names of the work and of a step.

        Returns
        -------
        tqdm
            Of no steps yet.
        """
        hidden = None if self.progress is None else not self.progress
        # an explicit wish shows it at once
        wait = 0 if self.progress else DELAY
        return tqdm(total=total, desc=what, unit=unit, disable=hidden, delay=wait, leave=False)


def check_likelihood(likelihood: object) -> None:
    """Check the name of a likelihood.

    Parameters
    ----------
    likelihood : object
        What should be one of ``context.LIKELIHOODS``.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
        raise ValueError(
            f"a likelihood of {', '.join(LIKELIHOODS)} was expected, got {shorten(likelihood)}; "
            "leave it out to have it chosen"
        )


def check_patches(likelihood: str) -> None:
    """Check that patches are not to be read by the simulator.

    Parameters
    ----------
    likelihood : str
        One of ``context.LIKELIHOODS``.

    Raises
    ------
    ValueError
        If they are.
    """
    if likelihood in BY_PIXELS:
        raise ValueError(
            f"a micrograph (y, x) was expected for likelihood={likelihood!r}, got patches; leave "
            "it out, or pass an ExactModel"
        )


def check_detectors(likelihood: str, names: Sequence[str]) -> None:
    """Check that several detectors are not to be read by the network.

    Parameters
    ----------
    likelihood : str
        One of ``context.LIKELIHOODS``.
    names : sequence of str
        Of the detectors of an image that has a dimension of them.

    Raises
    ------
    ValueError
        If they are.
    """
    if names and likelihood == "network":
        raise ValueError(
            f"likelihood='simulator' was expected for the detectors {', '.join(names)[:80]} "
            "together, got 'network', which reads each image for itself; leave it out, or select "
            "one detector"
        )


def check_exact_size(likelihood: str, num_sites: int) -> None:
    """Check that an image is small enough for the exact model.

    Parameters
    ----------
    likelihood : str
        One of ``context.LIKELIHOODS``.
    num_sites : int
        Of the image, with crystal.

    Raises
    ------
    ValueError
        If it is not.
    """
    if likelihood == "exact" and num_sites > MOST_EXACT:
        raise ValueError(
            f"at most {MOST_EXACT} sites were expected for likelihood='exact', got {num_sites}, "
            f"which would take some {HOURS_PER_SITE * num_sites:.0f} hours on one core; crop the "
            "image, or pass likelihood='simulator'"
        )


def is_by_pixels(
    likelihood: str,
    by_patches: Posterior,
    known: Mapping[str, object],
    doubts: Collection[str] = (),
) -> bool:
    """Whether a micrograph is read by all of its pixels.

    Parameters
    ----------
    likelihood : str
        One of ``context.LIKELIHOODS``.
    by_patches : Posterior
        By the network.
    known : mapping
        The checked context.
    doubts : collection of str
        What was done to the image, by the names of ``micrograph.diagnose``.

    Returns
    -------
    bool
        By default from ``LEAST_DOSE`` on, by the median of the network where the dose is not a
        number, and up to ``MOST_SITES`` sites with crystal, if the intensities are as recorded.

    Warns
    -----
    UserWarning
        If they are not: the simulator would explain what was done to them by other columns, with
        certainty.
    """
    if likelihood != "auto":
        return likelihood in BY_PIXELS
    if by_patches.defect.shape[1] > MOST_SITES:
        return False
    dose = known.get("dose")
    if not isinstance(dose, float):
        dose = float(np.median(by_patches.draws["dose"]))
    changed = [doubt for doubt in doubts if doubt in CHANGED]
    if dose >= LEAST_DOSE and changed:
        warn(
            "an image as it was recorded was expected, got signs of another "
            f"({', '.join(changed)}), so it is read by patches; pass the recorded counts, or "
            "likelihood='simulator'"
        )
    return dose >= LEAST_DOSE and not changed


def refuse_pixels(way: Way, error: Exception, *, must: bool = False) -> None:
    """Warn of an image that the simulator cannot be fitted to.

    Parameters
    ----------
    way : Way
        How it was to be read.
    error : Exception
        What came instead.
    must : bool
        Nothing but the simulator can read the image, as that of several detectors.

    Raises
    ------
    ValueError
        If nothing but the simulator may be used.

    Warns
    -----
    UserWarning
        Otherwise.
    """
    reason = " ".join(str(error).split())[:80]
    text = f"an image of a crystal layer was expected, the simulator cannot be fitted ({reason})"
    if must or way.likelihood in BY_PIXELS:
        raise ValueError(f"{text}; crop it, or pass likelihood='network'") from error
    warn(f"{text}, so it is read by patches; crop it to the crystal")
