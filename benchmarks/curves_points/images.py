"""Whole micrographs by their number of sites: oracle, all pixels and network."""

from __future__ import annotations

from functools import partial

import micrographs
import numpy as np
from tqdm import tqdm

import bayesctx as bc

from .patches import DOSE
from .scoring import MEASURES, Finished, Points

FIELDS = (108, 144, 192)  # pixels of STEP a side; six lattice constants are the least
STEP = 0.2  # Å
BY_NETWORK = 12  # images of a field, which take seconds; the other readings take minutes
CASE = "WSe2:Ti, 80 keV, 60-200 mrad"
ORACLE, PIXELS, NETWORK = "oracle", "all pixels", "network"
READINGS = {
    ORACLE: "oracle",
    PIXELS: "simulator, host known",
    NETWORK: "network, host known",
}
"""As micrographs.py names them."""


def read_image(num_pixels: int, index: int, reading: str, seed: int) -> dict[str, object]:
    """Means over the sites of one micrograph; a larger field of one index shares its world."""
    prior = bc.reference_prior().given(micrographs.CASES[CASE] | {"dose": DOSE})
    data = bc.simulate_micrograph(
        prior, seed=seed, index=index, num_pixels=num_pixels, sampling=STEP
    )
    known, likelihood = micrographs.READINGS[READINGS[reading]]
    try:
        row = micrographs.read(data, micrographs.KNOWN[known], likelihood)
    except ValueError as error:  # no lattice is found
        return {"sites": len(data.defect), "lost": str(error)[:100]}
    return {
        "sites": len(data.defect),
        "entropy": row["entropy"] / np.log(2),
        "log_score": row["log score"] / np.log(2),
        "accuracy": row["right"],
        "seconds": row["seconds"],
    }


def curve_of_images(
    finished: Finished, num_images: int, seed: int
) -> tuple[Points, dict[str, tuple[int, int]]]:
    """Points by the mean number of sites of a field; images read by every reading, and lost ones.

    Images that a reading has not read are NaN.
    """
    number = {NETWORK: max(num_images, BY_NETWORK)}
    # image by image, so that a part of a run can be used
    tasks = [
        (i, reading, field)
        for i in range(max(number.values()))
        for reading in READINGS
        for field in FIELDS
        if i < number.get(reading, num_images)
    ]
    rows: dict[tuple[int, str], list[dict]] = {(f, r): [] for f in FIELDS for r in READINGS}
    for index, reading, field in tqdm(tasks, unit="reading"):
        task = {"kind": "image", "reading": reading, "num_pixels": field, "index": index}
        work = partial(read_image, field, index, reading, seed)
        rows[field, reading].append(finished.get(task | {"seed": seed}, work))
    points: Points = {}
    for (field, reading), found in rows.items():
        sites = round(np.mean([r["sites"] for r in rows[field, NETWORK]]))
        values = [[r.get(m, np.nan) for m in MEASURES] for r in found]
        missing = [[np.nan] * len(MEASURES)] * (max(number.values()) - len(found))
        if np.isfinite(values).any():
            points[reading, sites] = np.array(values + missing).T
    counts = {
        reading: (
            sum("lost" not in r for f in FIELDS for r in rows[f, reading]),
            sum("lost" in r for f in FIELDS for r in rows[f, reading]),
        )
        for reading in READINGS
    }
    return points, counts
