"""Consistency of the values of a context, and conditioning of the conditions of a prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch.distributions import Distribution

from ..checks import shorten
from ..context import ADF_RULE, ANGLES, Detector, is_annular_dark_field
from ..crystal import HOSTS
from .codoping import Codoped
from .inversion import density, in_double

__all__ = ["check_agreement", "condition_on"]

MOST_REPEATED = 32  # largest number of repetitions: weights are rounded to 3 % of the largest


def check_agreement(checked: Mapping[str, object]) -> None:
    """Raise for values that contradict each other; arrays are checked image by image.

    Parameters
    ----------
    checked : mapping
        Values that were checked one by one, see ``evidence.check_context``.

    Raises
    ------
    ValueError
        If arrays are of different lengths, a dopant is the metal of its host, or a detector is not
        a ring outside of the probe's cone. Candidates are accepted if one combination is possible;
        distributions are not checked.
    """
    lengths = {n: len(v) for n, v in checked.items() if isinstance(v, np.ndarray)}
    for name, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise ValueError(
                f"{first} and {name} were expected for the same images, got {lengths[first]} and "
                f"{length} values; give one value for all or one each"
            )
    host, dopant = _options(checked, "host"), _options(checked, "dopant")
    if host is not None and dopant is not None:
        metal = np.array([[HOSTS[h].metal for h in row] for row in host.tolist()])
        differs = metal[:, :, None] != dopant[:, None, :]
        expected = "a dopant other than the metal of the host was expected"
        if isinstance(checked["dopant"], Codoped):
            differs = differs.all(-1, keepdims=True)
            expected = "two dopants other than the metal of the host were expected"
        _require(differs, checked, ("host", "dopant"), expected)
    known = [_options(checked, name) for name in ANGLES]
    if sum(k is not None for k in known) < 2:
        return
    # in single precision, as the model computes; an unknown angle excludes nothing
    open_values = (0.0, math.nan, math.inf)
    convergence, inner, outer = (
        np.asarray([[o]] if k is None else k, np.float32)
        for k, o in zip(known, open_values, strict=True)
    )
    convergence, outer = convergence.min(1, keepdims=True), outer.max(1, keepdims=True)
    inner = convergence if known[1] is None else inner
    _require(
        is_annular_dark_field(convergence, Detector(inner, outer)), checked, ANGLES,
        "a detector outside of the probe's cone with the inner below the outer angle was expected "
        f"({ADF_RULE})",
    )  # fmt: skip


def condition_on(
    conditions: Sequence[Mapping[str, object]], known: Mapping[str, object]
) -> tuple[dict[str, object], ...]:
    """Condition alternative imaging conditions on the context of an image.

    Parameters
    ----------
    conditions : sequence of mapping
        As in ``Prior``: for each variable a number, a tuple of candidates or a distribution.
    known : mapping
        Checked values, one per variable: a number, a list of candidates or a distribution.

    Returns
    -------
    tuple of dict
        Conditions with a number of a known variable are repeated in proportion to the probability
        of that number; contradicting ones are left out. Candidates and distributions are replaced
        by the known value.
    """
    updated, weights = [], []
    for condition in conditions:
        names = [name for name in condition if name in known]
        numbers = [name for name in names if isinstance(condition[name], float | int)]
        weights.append(math.prod(_agreement(known[n], condition[n]) for n in numbers))
        values = {n: known[n] for n in names if n not in numbers}
        values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        updated.append(dict(condition) | values)
    most = max(weights)
    if not most > 0:
        return ()
    repeats = [round(MOST_REPEATED * weight / most) for weight in weights]
    divisor = math.gcd(*repeats)
    return tuple(c for c, n in zip(updated, repeats, strict=True) for _ in range(n // divisor))


def _agreement(evidence: object, number: float) -> float:
    """Probability (density) of a number under the evidence, up to a constant."""
    if isinstance(evidence, Distribution):
        found = density(in_double(evidence), np.array(float(number)))
        return 0.0 if found is None else float(found)
    values = evidence if isinstance(evidence, list) else [evidence]
    return float(sum(math.isclose(number, value, rel_tol=1e-6) for value in values))


def _options(checked: Mapping[str, object], name: str) -> np.ndarray | None:
    """Possible values, shape (image or 1, option); None if the variable is unknown or soft."""
    value = checked.get(name)
    if value is None or isinstance(value, Distribution):
        return None
    value = value.metals if isinstance(value, Codoped) else value
    return value[:, None] if isinstance(value, np.ndarray) else np.array(value).reshape(1, -1)


def _require(
    allowed: np.ndarray, checked: Mapping[str, object], names: Sequence[str], expected: str
) -> None:
    """Raise unless every image has an allowed combination of candidates."""
    possible = allowed.reshape(len(allowed), -1).any(1)
    if possible.all():
        return
    image = int(np.argmin(possible))
    values, place = [], ""
    for name in names:
        value = checked.get(name)
        if isinstance(value, np.ndarray):
            value, place = value.tolist()[image], f" of image {image}"
        if value is not None and not isinstance(value, Distribution):
            values.append(f"{name} {value if isinstance(value, str) else shorten(value)}")
    raise ValueError(f"{expected}, got {' and '.join(values)}{place}; check them or leave one out")
