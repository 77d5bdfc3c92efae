"""Sections of a report besides the viewer: headline, numbers, sites, images, method."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..defects import DEFECTS
from ..plots import PERFECT
from ..tables import counts, crystal_of
from ..tables.counting import interval
from ..tables.drawn import read_worlds
from .charts import format_number, format_spread
from .trust import LOW_ESS, likelihood_of

__all__ = [
    "facts_of_method",
    "headline",
    "numbers",
    "table_of_images",
    "unsure_sites",
]

LADDER = ((0.99, 1.01, "above 0.99"), (0.9, 0.99, "0.9 to 0.99"), (0.5, 0.9, "0.5 to 0.9"),
          (0.0, 0.5, "below 0.5"))  # fmt: skip
LEAST_EXPECTED = 0.5  # sites of a class that is listed
MOST_UNSURE = 12
MOST_IMAGES = 200
DOT = 0.8  # per cent of the bar of intervals
PERFECT_CLASSES = [DEFECTS.index(n) for n in PERFECT]


def headline(result: xr.DataTree, doubts: int) -> list[dict[str, str]]:
    """The numbers that a reader wants first.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    doubts : int
        Number of warnings and doubtful checks.

    Returns
    -------
    list of dict
        Each with a ``figure`` and ``what`` it is.
    """
    worlds = read_worlds(result)
    defects = (~np.isin(worlds.defect, PERFECT_CLASSES)).sum(1)
    low, high = interval(defects[:, None], 0.9)[:, 0]
    shares = result["class_posterior"].defect.values[crystal_of(result)]
    wrong = float((1 - shares.max(-1)).sum())
    found = [
        (f"{len(worlds.site):,}".replace(",", "\u202f"), "sites with crystal"
         if "site_x" in result["constant_data"] else "patches"),
        (f"{defects.mean():.0f}", f"defects, 90 % interval {low:.0f} to {high:.0f}"),
    ]  # fmt: skip
    host = result["class_posterior"].host
    if host.ndim == 1:
        best = int(host.values.argmax())
        is_given = "host" in result["constant_data"]
        told = "given" if is_given else f"inferred, probability {float(host.values[best]):.2f}"
        found.append((str(host.host_class.values[best]), f"host, {told}"))
    found += [
        (f"≈ {wrong:.0f}", "classes expected to be wrong, if calibrated"),
        (f"{doubts}" if doubts else "none", "warnings and doubtful checks"),
    ]
    return [{"figure": figure, "what": what} for figure, what in found]


def numbers(result: xr.DataTree) -> dict[str, object]:
    """Numbers of the classes with intervals.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    dict
        Rows and what is said of all of them.
    """
    table = counts(result)
    crystal = crystal_of(result)
    best = result["class_posterior"].defect.values.argmax(-1)[crystal]
    defects = [n for n in table.defect_class.values.tolist() if n not in PERFECT]
    kept = table.isel(outcome=np.isin(table.defect_class.values, defects))
    longest = float(np.nanmax(kept.number_90_high.values, initial=1.0)) or 1.0
    rows, rare = [], []
    for k in range(table.sizes["outcome"]):
        row = table.isel(outcome=k)
        name, part = str(row.defect_class.item()), ":" in str(row.outcome.item())
        chosen = int((best == DEFECTS.index(name)).sum())
        if float(row.number) < LEAST_EXPECTED and not (chosen and not part):
            if not part:
                rare.append(name)
            continue
        rows.append(_number_row(row, part, chosen, longest))
    effective = table.attrs["effective_draws"]
    return {
        "rows": rows,
        "rare": ", ".join(rare),
        "num_sites": table.attrs["num_sites"],
        "num_draws": table.attrs["num_draws"],
        "effective": f"{effective:.0f}",
        "is_narrow": bool(np.isfinite(effective) and effective < LOW_ESS),
        "has_density": "density" in table,
    }


def _number_row(row: xr.Dataset, part: bool, chosen: int, longest: float) -> dict[str, object]:
    """One class, or one species of it."""

    def bounds(name: str, level: int) -> list[float]:
        return [float(row[f"{name}_{level}_{side}"]) for side in ("low", "high")]

    half, most = bounds("number", 50), bounds("number", 90)
    name = str(row.defect_class.item())
    # an interval of one number is drawn as a dot
    ends = [100 * v / longest for v in (most[0], *half, most[1])]
    ends = [ends[0], min(ends[1], ends[2] - DOT), max(ends[2], ends[1] + DOT), ends[3]]
    species = str(row.species.item())
    found = {
        "name": name,
        "part": part,
        "species": {"all": "several", "-": "none"}.get(species, species),
        "best": chosen,
        "number": f"{float(row.number):.1f}",
        "half": f"{half[0]:.0f}–{half[1]:.0f}",
        "most": f"{most[0]:.0f}–{most[1]:.0f}",
        "fraction": _with_interval(float(row.fraction), bounds("fraction", 90)),
        "bar": None if name in PERFECT else [f"{v:.1f}" for v in ends],
    }
    if "density" in row:
        found["density"] = _with_interval(float(row.density), bounds("density", 90))
    return found


def _with_interval(value: float, ends: list[float]) -> tuple[str, str]:
    """A number and its interval."""
    low, high = (format_number(v, ends) for v in ends)
    return format_number(value, ends), f"{low}–{high}"


def unsure_sites(result: xr.DataTree, table: xr.Dataset, num_shown: int) -> list[dict[str, object]]:
    """List the sites of which the class is least certain.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    table : Dataset
        From ``sites``.
    num_shown : int
        Number of sites that the viewer has.

    Returns
    -------
    list of dict
        At most a dozen.
    """
    shares = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))
    crystal = np.flatnonzero(crystal_of(result).ravel())
    order = crystal[np.argsort(shares[crystal].max(-1), kind="stable")][:MOST_UNSURE]
    flags, bits = table.flag.values.ravel(), table.entropy.values.ravel()
    found = []
    for i in order.tolist():
        second, first = np.argsort(shares[i], kind="stable")[-2:].tolist()
        place = f"{table.x_nm.values[i]:.2f}, {table.y_nm.values[i]:.2f}" if "x_nm" in table else ""
        found.append(
            {
                "index": i if i < num_shown else None,
                "name": str(i),
                "place": place,
                "first": first,
                "second": second,
                "share": float(shares[i, first].clip(0, 1)),
                "next": float(shares[i, second]),
                "entropy": float(bits[i]),
                "flags": str(flags[i]),
            }
        )
    return found


def table_of_images(result: xr.DataTree) -> dict[str, object]:
    """Context of independent images as a table.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on independent images.

    Returns
    -------
    dict
        Heads, rows of text, and a note where not all images are listed.
    """
    number = result["class_posterior"].sizes["image"]
    shown = min(number, MOST_IMAGES)
    known, drawn = result["constant_data"].to_dataset(), result["posterior"].to_dataset()
    shares = result["class_posterior"].to_dataset()
    names = [n for n in CONTEXT if n in known or n in drawn or n in shares]
    rows = []
    for i in range(shown):
        row = [str(i)]
        for name in names:
            if name in known:
                value = known[name].values
                value = value[i] if value.ndim else value[()]
                text = value if isinstance(value, str) else format_number(float(value))
                row.append(f"{text} (given)")
            elif name in shares:
                own = shares[name].values[i]
                best = int(own.argmax())
                row.append(f"{shares[name][shares[name].dims[-1]].values[best]} {own[best]:.2f}")
            else:
                draws = drawn[name].isel(image=i).values.ravel().astype(float)
                row.append(format_spread(draws.mean(), draws.std()))
        rows.append(row)
    heads = [CONTEXT[n].title + (f" [{CONTEXT[n].unit}]" if CONTEXT[n].unit else "") for n in names]
    note = f"The first {shown} of {number} are listed." if shown < number else ""
    return {"columns": heads, "rows": rows, "note": note}


def facts_of_method(result: xr.DataTree) -> dict[str, object]:
    """Version, settings, and where the image comes from.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    dict
        ``facts`` as pairs of text, the version, and as text the given context, the record of the
        file, and the names of what was stated; None where the result does not say.
    """
    attrs, sizes = result.attrs, result["posterior"].sizes
    chains, draws = sizes["chain"], sizes["draw"]
    image = result["observed_data"].intensity
    size = ", ".join(f"{n} {k}" for n, k in image.sizes.items())
    facts = [
        ("Likelihood", likelihood_of(result)),
        ("Draws", f"{chains * draws} in {chains} chain{'s' if chains > 1 else ''}"),
        ("Seed", str(attrs.get("seed", "not in the result"))),
        ("Version of bayesctx", str(attrs.get("version", "not in the result"))),
        ("Model (hash)", str(attrs.get("model", "not in the result"))),
        ("Image", size),
        ("File", str(attrs.get("source", "not in the result: the image was handed in as numbers"))),
    ]
    facts += [
        (title, str(attrs[n]))
        for n, title in (("format", "Format"), ("history", "History of the file"))
        if n in attrs
    ]
    return {
        "facts": facts,
        "version": str(attrs.get("version", "unknown")),
        "context": _indented(attrs.get("context", "{}")),
        "recorded": _indented(attrs["recorded"]) if "recorded" in attrs else "",
        "stated": _listed(attrs.get("stated")),
    }


def _listed(text: object) -> str | None:
    """Names of a JSON list in words; None where there is none."""
    try:
        names = json.loads(str(text))
    except ValueError:
        return None
    return ", ".join(map(str, names)) if isinstance(names, list) else None


def _indented(text: object) -> str:
    """JSON with indents; other text as it is."""
    try:
        return json.dumps(json.loads(str(text)), indent=2, ensure_ascii=False)
    except ValueError:
        return str(text)
