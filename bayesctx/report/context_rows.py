"""What is known of an image and what was inferred, as rows with prior, posterior and origin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from ..context import CONTEXT, NO_DOPANT
from ..inference.convergence import LARGEST_RHAT
from .charts import Chart, density_chart, format_number, format_spread

__all__ = ["PROBE", "Row", "context_rows", "describe_stated", "probe_rows"]

PROBE = {
    "source_size": "source size (FWHM)",
    "focal_spread": "focal spread (rms)",
    "C12": "twofold astigmatism C12",
    "phi12": "azimuth of C12",
    "C21": "coma C21",
    "phi21": "azimuth of C21",
    "C23": "threefold astigmatism C23",
    "phi23": "azimuth of C23",
    "C30": "spherical aberration C30",
    "tilt": "tilt of the layer",
    "tilt_azimuth": "azimuth of the tilt",
    "vibration": "thermal vibration, relative",
    "strain": "strain of the lattice",
    "row_jitter": "jitter of the scan rows along them (rms)",
    "row_jitter_y": "jitter of the scan rows across them (rms)",
    "row_slant": "slant of the scan rows (rms)",
    "disorder": "displacement of columns (rms)",
    "gain": "gain, counts per electron",
    "additivity": "interference of columns",
    "amplitude_scatter": "scatter of the amplitudes of columns",
    "share_outlying": "columns that the simulator does not describe",
}
"""What the sites of a micrograph share besides the context, in words."""

PERIODS = {
    "phi12": np.pi,
    "phi21": 2 * np.pi,
    "phi23": 2 * np.pi / 3,
    "tilt_azimuth": 2 * np.pi,
}
LOGARITHMIC = ("dose", "gain")
LEAST_SHARE = 0.005  # probability of a name that is listed
ENTRIES = ("value", "origin")


@dataclass(frozen=True)
class Row:
    """One variable.

    Attributes
    ----------
    name, title, unit : str
        Of the variable.
    kind : str
        "given", "recorded" by the file, "measured" by the lattice, "soft" or "inferred".
    value : str
        What was given, or the posterior in short.
    note : str
        What was stated, or where a value comes from.
    interval, before : str
        Central 90 % of the posterior and of the prior; empty where there are none.
    diagnosis : str
        Effective draws and r-hat; empty where the result has none.
    chart : Chart or None
        Of draws.
    shares : list of tuple
        Name, its prior probability or None, its posterior probability.
    """

    name: str
    title: str
    unit: str
    kind: str
    value: str
    note: str = ""
    interval: str = ""
    before: str = ""
    diagnosis: str = ""
    chart: Chart | None = None
    shares: list[tuple[str, float | None, float]] = field(default_factory=list)


def context_rows(result: xr.DataTree) -> list[Row]:
    """List the context of one image.

    Parameters
    ----------
    result : DataTree
        From ``infer``; of independent images one of them.

    Returns
    -------
    list of Row
        In the order of ``CONTEXT``, then the assignment and given abundances.
    """
    stated = _json(result.attrs.get("context"))
    recorded = _json(result.attrs.get("recorded"))
    told = _json(result.attrs.get("stated"), list)
    rows = []
    for name, detector, part in _parts(result, [*CONTEXT, "assignment"]):
        known = _of_detector(stated, detector)
        entry = _of_detector(recorded, detector or _only(result)).get(name)
        if _is_entry(entry) and "stated" in result.attrs:
            entry = {**entry, "taken": (f"{name} of {detector}" if detector else name) not in told}
        rows += _row(part, name, detector, known.get(name), entry)
    given = stated.get("abundance")
    if isinstance(given, Mapping):
        for name, share in given.items():
            kind = "given" if isinstance(share, float | int) else "soft"
            text = describe_stated(share)
            title, unit = f"abundance of {name}", "share of the sites of its kind"
            rows.append(Row(f"abundance.{name}", title, unit, kind, text))
    return rows


def probe_rows(result: xr.DataTree) -> list[Row]:
    """List the probe and the scan, where they were inferred.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    list of Row
        Empty for a result by the network.
    """
    rows = []
    for name, detector, part in _parts(result, PROBE):
        rows += _row(part, name, detector, None, None)
    return rows


def describe_stated(value: object) -> str:
    """Say what was stated of a variable.

    Parameters
    ----------
    value : object
        From the JSON of a context: a number, a name, candidates, or a distribution.

    Returns
    -------
    str
        In words.
    """
    if isinstance(value, list):
        return " or ".join(map(describe_stated, value))
    if isinstance(value, float | int):
        return f"{value:g}"
    if isinstance(value, Mapping):
        if len(value) == 1 and isinstance(next(iter(value.values())), list):
            (name, parameters), *_ = value.items()
            return f"{name}({', '.join(map(describe_stated, parameters))})"
        return ", ".join(f"{n}: {describe_stated(v)}" for n, v in value.items())
    return "none" if value is None else str(value)


def _parts(result: xr.DataTree, names: object) -> list[tuple[str, str, xr.DataTree]]:
    """Variables that a result has, one for each detector where they differ."""
    groups = [result[g].to_dataset() for g in ("posterior", "class_posterior", "constant_data")]
    found = []
    for name in names:
        held = [g[name] for g in groups if name in g]
        if held and any("detector" in v.dims for v in held):
            for k, detector in enumerate(held[0].detector.values):
                part = result.isel(detector=k, missing_dims="ignore")
                found.append((name, str(detector), part))
        elif held:
            found.append((name, "", result))
    return found


def _row(result: xr.DataTree, name: str, detector: str, stated: object, entry: object) -> list[Row]:
    """The row of a variable."""
    variable = CONTEXT.get(name)
    title = variable.title if variable else PROBE.get(name, "assignment of the sublattices")
    title += f", {detector}" if detector else ""
    known, shares = result["constant_data"].to_dataset(), result["class_posterior"].to_dataset()
    drawn = result["posterior"].to_dataset()
    note = _note(stated, entry)
    if name in known and not (name == "sampling" and name in drawn):
        row = _given(name, title, known[name], stated, entry)
        told = isinstance(stated, float) and np.isclose(known[name].values.flat[0], stated)
        if name == "sampling" and "site_x" in known and not told:
            row = replace(row, kind="measured", note=note)
        return [row]
    if isinstance(stated, float | int) and name in drawn and np.ptp(drawn[name].values) == 0:
        # a given angle of one of several detectors is the same in every draw
        return [_given(name, title, drawn[name], stated, entry)]
    kind = "soft" if stated is not None or _is_entry(entry) else "inferred"
    if name in shares:
        return [_discrete(result, name, title, kind, note)]
    return [_continuous(result, name, title, kind, note, detector)]


def _given(name: str, title: str, values: xr.DataArray, stated: object, entry: object) -> Row:
    """The row of a value that was given."""
    value, unit = values.values.ravel()[0], values.attrs.get("units", "")
    text = str(value) if isinstance(value, str) else format_number(float(value))
    text = "none: an undoped crystal" if text == NO_DOPANT else text
    unit = "" if isinstance(value, str) else _unit(unit)
    kind, note = "given", "stated"
    if _is_entry(entry):
        note = f"the file records {entry['value']:.5g} ({entry['origin']})"
        agrees = stated is None or _agrees(stated, entry["value"])
        if entry.get("taken", agrees):
            kind, note = "recorded", _note(None, entry)
            note += "" if agrees else f"; with the pixel size in the file {entry['value']:.5g}"
    return Row(name, title, unit, kind, text, note)


def _discrete(result: xr.DataTree, name: str, title: str, kind: str, note: str) -> Row:
    """The row of a variable whose values are names."""
    found = result["class_posterior"][name]
    values, names = found.values.ravel(), found[found.dims[-1]].values.astype(str)
    before = np.full(len(names), np.nan)
    if "prior" in result.children and name in result["prior"]:
        draws = result["prior"][name].values.ravel().astype(int)
        before = np.bincount(draws, minlength=len(names))[: len(names)] / draws.size
    order = [i for i in np.argsort(-values, kind="stable") if values[i] >= LEAST_SHARE]
    shares = [(names[i], _or_none(before[i]), float(values[i])) for i in order]
    return Row(name, title, "", kind, str(names[values.argmax()]), note, shares=shares)


def _continuous(
    result: xr.DataTree, name: str, title: str, kind: str, note: str, detector: str
) -> Row:
    """The row of a variable that was drawn."""
    after = result["posterior"][name]
    draws = after.values.ravel().astype(float)
    before = None
    if "prior" in result.children and name in result["prior"]:
        before = result["prior"][name].values.ravel().astype(float)
    ess, rhat = _mixing(result, f"{name}[{detector}]" if detector else name)
    words = [f"{ess:.0f} effective"] if np.isfinite(ess) else []
    if np.isfinite(rhat):
        words.append(f"r-hat {rhat:.2f}" + (" (not mixed)" if rhat >= LARGEST_RHAT else ""))
    mean, deviation, first = draws.mean(), draws.std(), {}
    if name in PERIODS:
        mean, deviation, draws = _unwrap(draws, PERIODS[name])
        before = None if before is None else _unwrap(before, PERIODS[name], mean)[2]
    elif before is not None:
        first = {"before": _span(before)}
    effective = min(ess, draws.size) if np.isfinite(ess) else _effective(result, draws.size)
    return Row(
        name,
        title,
        _unit(after.attrs.get("units", "")),
        kind,
        format_spread(mean, deviation),
        note,
        _span(draws),
        diagnosis=", ".join(words),
        chart=density_chart(before, draws, effective, is_log=name in LOGARITHMIC),
        **first,
    )


def _unwrap(
    draws: np.ndarray, period: float, middle: float | None = None
) -> tuple[float, float, np.ndarray]:
    """Circular mean and deviation, and the draws within half a period of the mean or of a place."""
    turn = np.exp(2j * np.pi * draws / period).mean()
    mean = float(np.angle(turn) * period / (2 * np.pi)) % period
    deviation = np.sqrt(-2 * np.log(max(abs(turn), 1e-12))) * period / (2 * np.pi)
    at = mean if middle is None else middle
    return mean, float(deviation), at + (draws - at + period / 2) % period - period / 2


def _span(draws: np.ndarray) -> str:
    """Central 90 % of draws."""
    ends = np.quantile(draws, (0.05, 0.95))
    return " to ".join(format_number(v, ends) for v in ends)


def _mixing(result: xr.DataTree, name: str) -> tuple[float, float]:
    """Effective draws and r-hat of a variable, where the result has them."""
    statistics = result["sample_stats"].to_dataset() if "sample_stats" in result.children else {}
    if "r_hat" not in statistics or name not in statistics.variable.values:
        return np.nan, np.nan
    here = statistics.sel(variable=name)
    return float(here.ess_bulk), float(here.r_hat)


def _effective(result: xr.DataTree, most: int) -> float:
    """Effective number of the draws of the whole context."""
    if "sample_stats" not in result.children or "ess" not in result["sample_stats"]:
        return most
    return min(float(result["sample_stats"].ess.values.ravel()[0]), most)


def _note(stated: object, entry: object) -> str:
    """What was stated of a variable, and else what the file records."""
    if stated is not None and not (_is_entry(entry) and _agrees(stated, entry["value"])):
        return f"stated: {describe_stated(stated)}"
    if _is_entry(entry):
        told = f" = {entry['recorded']}" if entry.get("recorded") else ""
        return f"{entry['origin']}{told}"
    return ""


def _agrees(stated: object, value: object) -> bool:
    """Whether what is conditioned on is the number that the file records."""
    return isinstance(stated, float | int) and np.isclose(stated, float(value), rtol=1e-4)


def _is_entry(entry: object) -> bool:
    """Whether a recorded entry is whole; files are not trusted."""
    if not isinstance(entry, Mapping) or not all(n in entry for n in ENTRIES):
        return False
    return isinstance(entry["value"], float | int)


def _only(result: xr.DataTree) -> str:
    """Name of the detector of an image of one of them; empty where it has none."""
    coords = result["observed_data"].coords
    return (
        str(coords["detector"].item())
        if "detector" in coords and coords["detector"].ndim == 0
        else ""
    )


def _of_detector(values: Mapping[str, object], detector: str) -> dict[str, object]:
    """What is said of the scan, and of one of its detectors."""
    own = values.get("detector")
    part = own.get(detector) if isinstance(own, Mapping) else None
    return {n: v for n, v in values.items() if n != "detector"} | (
        dict(part) if isinstance(part, Mapping) else {}
    )


def _json(text: object, kind: type = dict) -> Any:
    """A mapping, or a list, that attributes hold as JSON; empty for anything else."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return kind()
    return found if isinstance(found, kind) else kind()


def _or_none(value: float) -> float | None:
    """A number, or None where it is not one."""
    return float(value) if np.isfinite(value) else None


def _unit(unit: str) -> str:
    """Unit as it is shown."""
    return "" if unit == "1" else str(unit)
