"""Electrons that a file records for each pixel: the dose follows from them with the pixel size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..context import CONTEXT
from ..storage import warn

__all__ = ["Electrons", "electrons_of"]

TOLD = 0.08  # relative change of a recorded dose that is told of: that of a pixel size by 4 %


@dataclass(frozen=True)
class Electrons:
    """Electrons that hit each pixel, beam current x dwell time / elementary charge.

    Attributes
    ----------
    number : float
        For each pixel.
    recorded : float
        Dose in e/Å² on pixels of the size that the file records.
    origin : str
        Metadata entries that it comes from.
    domain : tuple of float
        Smallest and largest dose that the model covers.
    """

    number: float
    recorded: float
    origin: str
    domain: tuple[float, float]

    def dose_on(self, sampling: float) -> float:
        """Compute the dose on pixels of a size.

        Parameters
        ----------
        sampling : float
            Pixel size in Å.

        Returns
        -------
        float
            In e/Å², within the domain.
        """
        low, high = self.domain
        return min(max(self.number / sampling**2, low), high)

    def check(self, sampling: float) -> None:
        """Check the dose on the pixels that are used.

        Parameters
        ----------
        sampling : float
            Their size in Å.

        Raises
        ------
        ValueError
            If the dose is beyond the domain by more than its margin.

        Warns
        -----
        UserWarning
            If it is beyond the domain, or not about the one that the file records.
        """
        dose, (low, high), margin = self.number / sampling**2, self.domain, CONTEXT["dose"].margin
        told = f"{dose:.5g} e/Å² on pixels of {sampling:.4g} Å ({self.origin})"
        if not low * (1 - margin) <= dose <= high * (1 + margin):
            raise ValueError(
                f"dose [e/Å²] was expected between {low:g} and {high:g}, the file records {told}; "
                "if that is wrong, state dose: a value, or a range to infer it"
            )
        if not low <= dose <= high:
            warn(
                f"the file records a dose of {told}, which is taken as {self.dose_on(sampling):g}, "
                "where the domain of the model ends; state dose if it is known otherwise"
            )
        elif abs(math.log(dose / self.recorded)) > TOLD:
            warn(
                f"the dose is taken as {told}, and not as the {self.recorded:.5g} e/Å² of the "
                "pixel size in the file; state dose if it is known otherwise"
            )


def electrons_of(
    entry: Mapping[str, object] | None, domain: tuple[float, float]
) -> Electrons | None:
    """Electrons for each pixel, of a dose that was computed from them.

    Parameters
    ----------
    entry : mapping, optional
        A recorded dose.
    domain : tuple of float
        Smallest and largest dose in e/Å² that the model covers.

    Returns
    -------
    Electrons or None
        None of no dose, and of one that the file states in e/Å².
    """
    area = (entry or {}).get("pixel_area")
    if not isinstance(area, int | float) or area <= 0:
        return None
    return Electrons(entry["value"] * area, entry["value"], str(entry["origin"]), domain)
