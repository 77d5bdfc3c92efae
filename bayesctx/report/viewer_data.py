"""What the viewer of a report draws: pictures, sites, classes and the images of columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

from ..defects import DEFECTS
from ..plots import COLOURS, MARKERS, PERFECT
from ..plots.symbols import TITLES, outline
from ..tables import FLAGS, crystal_of, sites
from ..tables.drawn import sampling_of
from .expectation import Expectation
from .rasters import Raster, draw_raster, fold_patches, pack

__all__ = ["viewer_of_micrograph", "viewer_of_patches"]

BUDGET, PER_SITE = 3_300_000, 8  # bytes of all pictures, less those of each site; base 64 adds 1/3
LEAST_BUDGET = 1_000_000
SHARES = (0.55, 0.2, 0.25)  # of it for the observed, expected and residual images
LIMITS = (0.5, 99.8)  # percentiles that are black and white, because of hot pixels
RESIDUAL = 6.0  # standard deviations at the ends of its scale
WINDOW = 0.3  # Å, standard deviation of the window over which a residual is averaged
MOST_PATCHES = 2500
PERMILLE = 60_000  # steps of a probability in 16 bits
STOPS = 17


def viewer_of_micrograph(
    result: xr.DataTree, expected: Expectation | None, change: np.ndarray | None
) -> dict[str, object]:
    """Arrange a micrograph for the viewer.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.
    expected : Expectation, optional
        Its expected image.
    change : ndarray, shape (patch,), optional
        Reduction of the entropy by the context, in bits.

    Returns
    -------
    dict
        For JSON; arrays are packed.
    """
    table = sites(result)
    images = result["observed_data"].intensity
    names = (
        [str(d) for d in np.atleast_1d(images.coords["detector"].values)]
        if "detector" in images.dims
        else [""]
    )
    values = images.values.astype(float).reshape(-1, *images.shape[-2:])
    layers, columns, sampling = [], None, sampling_of(result)
    for k, (name, own) in enumerate(zip(names, values, strict=True)):
        layers += _layers(name, own, k, len(values), expected, len(table.x_px), sampling)
    if expected is not None:
        columns = _columns(expected)
    data = {
        "kind": "micrograph",
        "width": values.shape[2],
        "height": values.shape[1],
        "sampling": sampling,
        "detectors": names,
        "layers": layers,
        "columns": columns,
        "spacing": _spacing(table),
    }
    place = {"x": table.x_px.values, "y": table.y_px.values}
    return data | _sites(result, table, place, change)


def viewer_of_patches(result: xr.DataTree) -> dict[str, object]:
    """Arrange patches, or independent images, side by side for the viewer.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on patches.

    Returns
    -------
    dict
        For JSON; at most ``MOST_PATCHES`` of them.
    """
    images = result["observed_data"].intensity
    patches = images.values.astype(float).reshape(-1, *images.shape[-2:])[:MOST_PATCHES]
    image, middles = fold_patches(patches)
    raster = draw_raster(image, 0.0, 1.0, BUDGET - PER_SITE * len(patches))
    table = sites(result)
    data = {
        "kind": "patches",
        "width": image.shape[1],
        "height": image.shape[0],
        "sampling": None,
        "detectors": [""],
        "layers": [_layer("observed", "Patches, each with its own grey scale", raster, 0)],
        "columns": None,
        "spacing": float(images.shape[-1]),
        "patch": [int(images.shape[-1]), int(images.shape[-2])],
        "num_all": int(np.prod(images.shape[:-2])),
        "labels": _labels(result)[: len(patches)],
    }
    place = {"x": middles[:, 0], "y": middles[:, 1]}
    return data | _sites(result, table, place, None)


def _layers(
    name: str,
    own: np.ndarray,
    index: int,
    num: int,
    expected: Expectation | None,
    num_sites: int,
    sampling: float,
) -> list[dict[str, object]]:
    """Observed, expected and residual image of one detector."""
    of = f", {name}" if name else ""
    finite = own[np.isfinite(own)]
    low, high = np.percentile(finite, LIMITS) if finite.size else (0.0, 1.0)
    total = max(BUDGET - PER_SITE * num_sites, LEAST_BUDGET)
    budget = [int(total * s / num) for s in SHARES]
    if expected is not None:
        mean = expected.image[index]
        # one scale for both, or they could not be compared
        low, high = min(low, mean.min()), max(high, mean.max())
    found = [_layer("observed", f"Observed{of}", draw_raster(own, low, high, budget[0]), index)]
    if expected is not None:
        picture = draw_raster(mean, low, high, budget[1])
        found.append(_layer("expected", f"Expected{of}", picture, index))
        rest = _average(expected.residual(own, index), WINDOW / sampling)
        picture = draw_raster(rest, -RESIDUAL, RESIDUAL, budget[2])
        found.append(_layer("residual", f"Residual{of}", picture, index))
    return found


def _average(residual: np.ndarray, width: float) -> np.ndarray:
    """Average over a Gaussian window, in standard deviations if pixels were independent."""
    known = np.isfinite(residual)
    point = np.zeros(1 + 2 * int(np.ceil(5 * width)))
    point[len(point) // 2] = 1.0
    window = gaussian_filter1d(point, width)
    smooth = gaussian_filter(np.where(known, residual, 0.0), width) / (window**2).sum()
    return np.where(known, smooth, 0.0)


def _layer(kind: str, title: str, raster: Raster, detector: int) -> dict[str, object]:
    """A picture with its scale."""
    return {
        "kind": kind,
        "title": title,
        "detector": detector,
        "uri": raster.uri,
        "low": raster.low,
        "high": raster.high,
        "shrink": raster.shrink,
        "quality": raster.quality,
    }


def _columns(expected: Expectation) -> dict[str, object]:
    """Images of columns as 16-bit integers."""
    scale = float(np.abs(expected.columns).max()) / 32_000 or 1.0
    return {
        "hypotheses": [
            {"defect": DEFECTS.index(h.defect), "site": h.site, "formula": h.formula}
            for h in expected.hypotheses
        ],
        "side": expected.columns.shape[-1],
        "step": expected.step,
        "scale": scale,
        "values": pack(np.rint(expected.columns / scale).astype(np.int16)),
        "present": pack(expected.present.astype(np.int8)),
        "variance": expected.variance.tolist(),
    }


def _sites(
    result: xr.DataTree,
    table: xr.Dataset,
    place: Mapping[str, np.ndarray],
    change: np.ndarray | None,
) -> dict[str, object]:
    """Classes and sites, those that have a place."""
    num = len(place["x"])
    shares = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))
    best, crystal = shares.argmax(-1), crystal_of(result).ravel()
    flags = table.flag.values.ravel()[:num]
    code = sum(
        np.array([f in text.split("; ") for text in flags]).astype(int) << k
        for k, f in enumerate(FLAGS)
    )
    species = table.species.values.ravel()[:num].astype(str)
    words = sorted(set(species))
    kinds = table.site.values.astype(str) if "site" in table else np.full(num, "")
    places = sorted(set(kinds))
    found = {
        "num": num,
        "x": pack(np.asarray(place["x"], np.float32)),
        "y": pack(np.asarray(place["y"], np.float32)),
        "p": pack(np.rint(PERMILLE * shares[:num].clip(0, 1)).astype(np.uint16)),
        "steps": PERMILLE,
        "entropy": pack(table.entropy.values.ravel()[:num].astype(np.float32)),
        "flags": pack(np.asarray(code, np.uint8)),
        "species": [words, pack(np.searchsorted(words, species).astype(np.uint16))],
        "kinds": [places, pack(np.searchsorted(places, kinds).astype(np.uint8))],
    }
    if "surprise" in table:
        found["surprise"] = pack(table.surprise.values.ravel()[:num].astype(np.float32))
        found["limit"] = _finite(table.surprise.attrs.get("limit", np.inf))
    if change is not None:
        found["change"] = pack(change.astype(np.float32))
    classes = [
        {
            "name": name,
            "title": TITLES[name],
            "colour": COLOURS[name],
            "corners": np.round(outline(MARKERS[name]), 3).tolist(),
            "perfect": name in PERFECT,
            "count": int(((best == k) & crystal).sum()),
        }
        for k, name in enumerate(DEFECTS)
    ]
    scales = {n: _stops(c) for n, c in (("plain", "cividis"), ("both", "PuOr"))}
    return {"sites": found, "classes": classes, "flags": list(FLAGS), "scales": scales}


def _labels(result: xr.DataTree) -> list[str]:
    """Names of patches: their position in the result."""
    shape = result["class_posterior"].defect.shape[:-1]
    dims = result["class_posterior"].defect.dims[:-1]
    used = [k for k, n in enumerate(shape) if n > 1] or [len(shape) - 1]
    return [", ".join(f"{dims[k]} {at[k]}" for k in used) for at in np.ndindex(*shape)]


def _spacing(table: xr.Dataset) -> float:
    """Median distance of neighbouring sites in px."""
    points = np.stack([table.x_px.values, table.y_px.values], -1)
    return float(np.median(cKDTree(points).query(points, 2)[0][:, 1])) if len(points) > 1 else 10.0


def _stops(name: str) -> list[str]:
    """Colours of a scale at equal distances."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(c) for c in colormaps[name](np.linspace(0, 1, STOPS))]


def _finite(value: float) -> float | None:
    """A number that JSON has."""
    return float(value) if np.isfinite(value) else None
