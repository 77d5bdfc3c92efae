"""The context that a file records, joined with what the user states: what is stated wins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..storage import warn
from .electrons import Electrons, electrons_of
from .fingerprint import without_old_dose
from .objects import as_image
from .record import OF_FRAME, parse_record

__all__ = ["Joined", "join_context", "recorded_context"]

ANGLES = ("inner_collection_angle", "outer_collection_angle")
ROUNDING = 0.01  # relative difference of a stated from a recorded value that is not told of
FAR = 4.0  # standard deviations of a stated distribution
Entries = dict[str, dict]


def recorded_context(image: object) -> dict[str, object]:
    """Context that the file of an image records, as ``infer`` takes it.

    Parameters
    ----------
    image : DataArray
        From ``read``; also a part of it, or one of its detectors.

    Returns
    -------
    dict
        Values by name; of several detectors their angles in ``detector``. The pixel size is that of
        the coordinates, and the dose that on pixels of this size. Empty for an image without such a
        record.

    Examples
    --------
    >>> import xarray as xr
    >>> entry = '{"beam_energy": {"value": 80000.0, "origin": "Optics.AccelerationVoltage"}}'
    >>> recorded_context(xr.DataArray([[0.0]], dims=("y", "x"), attrs={"context": entry}))
    {'beam_energy': 80000.0}
    """
    shared, own = _entries(_checked(image))
    found: dict[str, object] = {name: entry["value"] for name, entry in shared.items()}
    angles = {d: {n: e["value"] for n, e in known.items()} for d, known in own.items() if known}
    return found | ({"detector": angles} if angles else {})


def _entries(image: object) -> tuple[Entries, dict[str, Entries]]:
    """Entries of the scan, and of each detector; of one detector they are those of the scan."""
    known = parse_record(image.attrs if isinstance(image, xr.DataArray) else {})
    names = known.get("detector")
    own = {str(d): _valid(e, ANGLES) for d, e in names.items()} if isinstance(names, dict) else {}
    several = isinstance(image, xr.DataArray) and "detector" in image.dims
    shared = _valid(
        known, [n for n in CONTEXT if n != "sampling" and not (several and n in ANGLES)]
    )
    if own and not several:
        one = str(image.coords["detector"].item()) if "detector" in image.coords else ""
        shared, own = shared | own.get(one, {}), {}
    return shared, own


def _valid(entries: object, names: object) -> Entries:
    """Entries of these names that are numbers with an origin."""
    if not isinstance(entries, dict):
        return {}
    return {
        name: entry
        for name, entry in entries.items()
        if name in names
        and isinstance(entry, dict)
        and isinstance(entry.get("value"), int | float)
        and "origin" in entry
    }


@dataclass(frozen=True, eq=False)
class Joined:
    """An image with all that is known of it.

    Attributes
    ----------
    image : object
        A DataArray where it was an image of another package; without coordinates y and x where the
        user states the pixel size.
    context : mapping or Dataset
        What is stated, and what is recorded of everything else.
    electrons : Electrons, optional
        Of a recorded dose that is not in the context, since it follows from the pixel size.
    provenance : dict of str to str
        For the attributes of a result: ``source``, ``format``, ``history``, ``recorded``, JSON of
        what the file records, and ``stated``, JSON of the names that the user states; empty for an
        image that ``read`` did not make.
    """

    image: object
    context: Mapping[str, object] | None
    electrons: Electrons | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)


def join_context(
    image: object,
    context: Mapping[str, object] | None,
    domains: Mapping[str, tuple] | None = None,
) -> Joined:
    """Join the context that a file records with what the user states.

    Parameters
    ----------
    image : object
        What was handed to ``infer``.
    context : mapping or Dataset, optional
        What the user states.
    domains : mapping of str to tuple, optional
        Narrower domains: those of a model.

    Returns
    -------
    Joined
        The image, and what is known of it.

    Raises
    ------
    ValueError
        If a recorded value that is not replaced lies outside of what the package covers.

    Warns
    -----
    UserWarning
        If a stated value disagrees with the recorded one by more than rounding.
    """
    image = _checked(as_image(image))
    is_recorded = isinstance(image, xr.DataArray) and "context" in image.attrs
    # a context that is no mapping is refused by its own checks
    if not is_recorded or not isinstance(context, Mapping | None):
        return Joined(image, context)
    shared, own = _entries(image)
    stated = dict(context or {})
    _tell_of_frame(image, stated)
    joined, electrons = dict(stated), None
    for name, entry in shared.items():
        _compare(name, stated, entry)
        if name in stated:
            continue
        if name == "dose":
            electrons = electrons_of(entry, (domains or {}).get(name, CONTEXT[name].domain))
        if name != "dose" or electrons is None:
            joined[name] = _in_domain(name, entry, domains)
    given = stated.get("detector", {})
    if own and isinstance(given, Mapping):
        joined["detector"] = _join_angles(given, own, image, domains)
    return Joined(_state_sampling(image, stated), joined, electrons, _provenance(image, stated))


def _checked(image: object) -> object:
    """An image whose recorded dose is its own, which it is not where frames were summed since."""
    return without_old_dose(image) if isinstance(image, xr.DataArray) else image


def _tell_of_frame(image: xr.DataArray, stated: Mapping[str, object]) -> None:
    """Warn of a dose that is known for one frame only, and that is not stated."""
    entry = _valid(parse_record(image.attrs), [OF_FRAME]).get(OF_FRAME)
    if entry is not None and "dose" not in stated:
        warn(
            f"a dose of {entry['value']:.5g} e/Å² is recorded for one frame ({entry['origin']}), "
            "and the image may be the sum of several, or have changed otherwise since, so that its "
            f"dose is inferred; state dose={entry['value']:.5g} for one frame, or this times their "
            "number"
        )


def _provenance(image: xr.DataArray, stated: Mapping[str, object]) -> dict[str, str]:
    """Where an image comes from, what its file records, and what the user states."""
    names = {"source": "source", "format": "format", "history": "history", "context": "recorded"}
    if not set(names) <= set(image.attrs):
        return {}
    angles = stated.get("detector", {})
    own = angles.items() if isinstance(angles, Mapping) else ()
    told = [n for n in stated if n != "detector"]
    told += [f"{n} of {d}" for d, known in own for n in known]
    return {new: str(image.attrs[old]) for old, new in names.items()} | {"stated": json.dumps(told)}


def _join_angles(
    given: Mapping, own: dict[str, Entries], image: xr.DataArray, domains: Mapping | None
) -> dict:
    """Angles of every detector of the image, stated or recorded."""
    names = [str(name) for name in np.ravel(image["detector"].values)]
    found = {d: dict(known) if isinstance(known, Mapping) else known for d, known in given.items()}
    for name in (n for n in names if n in own):
        known = found.setdefault(name, {})
        if not isinstance(known, dict):
            continue
        for angle, entry in own[name].items():
            _compare(angle, known, entry, f" of {name}")
            if angle not in known:
                known[angle] = _in_domain(angle, entry, domains, f" of {name}")
    return {d: known for d, known in found.items() if known}


def _state_sampling(image: xr.DataArray, stated: Mapping[str, object]) -> xr.DataArray:
    """Without coordinates if a pixel size is stated."""
    steps = [
        abs(float(image[a][-1] - image[a][0])) / (image.sizes[a] - 1)
        for a in ("y", "x")
        if a in image.coords and a in image.dims and image.sizes[a] > 1
    ]
    if "sampling" not in stated or not steps:
        return image
    _compare("sampling", stated, {"value": steps[-1], "origin": "coordinates"})
    return image.drop_vars(["y", "x"], errors="ignore")


def _compare(name: str, stated: Mapping[str, object], entry: dict, of: str = "") -> None:
    """Warn if a stated value disagrees with the recorded one by more than rounding."""
    if name not in stated or _agrees(stated[name], entry["value"]):
        return
    recorded = entry.get("recorded") or f"{entry['value']:.5g} {CONTEXT[name].unit}"
    warn(
        f"{name}{of} is stated as {str(stated[name])[:60]} {CONTEXT[name].unit}, the file records "
        f"{entry['value']:.5g} ({recorded}; {entry['origin']}); what is stated is used"
    )


def _agrees(stated: object, recorded: float) -> bool:
    """Whether a number, one of some candidates, or the support of a distribution is the value."""
    if hasattr(stated, "log_prob") and hasattr(stated, "support"):
        import torch  # imported when used: reading files needs no torch

        value = torch.as_tensor(recorded, dtype=torch.float64)
        inside = bool(torch.as_tensor(stated.support.check(value)).all())
        with suppress(AttributeError, NotImplementedError):  # some have no moments
            inside &= bool((abs(value - stated.mean) <= FAR * stated.stddev).all())
        return inside
    try:
        values = np.ravel(np.asarray(stated, float))
    except (TypeError, ValueError):
        return True  # refused by the checks of the context
    return bool(values.size) and bool((np.abs(values - recorded) <= ROUNDING * abs(recorded)).any())


def _in_domain(name: str, entry: dict, domains: Mapping | None, of: str = "") -> float:
    """The recorded value, which must be within what the package or the model covers."""
    variable, value = CONTEXT[name], float(entry["value"])
    low, high = (domains or {}).get(name, variable.domain)
    margin = variable.margin
    if not low - margin * abs(low) <= value <= high + margin * abs(high):
        raise ValueError(
            f"{name} [{variable.unit}]{of} was expected between {low:g} and {high:g}, the file "
            f"records {value:.5g} ({entry.get('recorded', '')}; {entry['origin']}); if that is "
            f"wrong, state {name}: a value, or a range to infer it"
        )
    return value
