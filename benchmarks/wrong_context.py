"""Wrong context by all pixels: how often ``infer`` warns of it, and what it names."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from claims import MATERIALS, TRUTH, WRONG
from real import HOST, SOFT
from report import table, write
from rows import append_row, read_rows
from tqdm import tqdm

import bayesctx as bc
from bayesctx.inference.claims import SCREENED, conflict_by_pixels, warn_of_claims
from bayesctx.inference.detectors import check_rings
from bayesctx.inference.inputs import read_inputs
from bayesctx.inference.whole_image import Micrograph

TRUE, SIZE = "true context", "pixels 8 % wider"
WIDER = 1.08
SAMPLING, REAL = 0.25, 0.383  # Å, of a pixel; of the real ones by their lattice
WRONG_REAL = {
    "host MoS2": ("host", {"host": "MoS2"}),
    "beam energy 200 for 80 keV": ("beam_energy", {"beam_energy": 200e3}),
}
REFUSED = "refused"
INTRODUCTION = """\
{num} simulated micrographs of {pixels} x {pixels} pixels of 0.25 Å ({materials}; 80 keV, 25 mrad,
70-200 mrad, dose 10⁴ to 10⁶ e/Å², focus and all nuisances of `reference_prior()`); all of the
context but focus and dose is given, and the size of a pixel.{real}

What `infer` by all pixels says of a context before it draws worlds. Gain: what the log density at
the best fit of the pixels in the middle of the image gains, in nats, if all that is given is left
open; above {limit:.0f} the claims are weighed one by one, and `infer` may warn. Refused: it raised
an error, of a host whose lattice does not fit the pixel size, or whose metal is the dopant. Named:
of the warnings, those in which the claim that is wrong is the most likely one. Seconds: mean wall
time of one thread.

"""
OF_REAL = """
Real: both detectors of {num} micrographs of [real](real.md), one by one; host, beam energy and
the range of its inner angle are given, and the pixel size only where it is wrong."""


@dataclass(frozen=True)
class Case:
    """An image under one context, and the variable of it that is wrong."""

    image: str
    claim: str
    wrong: str | None
    context: Mapping[str, object]
    pixels: np.ndarray


def simulated(num_images: int, num_pixels: int, seed: int) -> Iterator[Case]:
    """Every image under every context."""
    prior = bc.load_model().prior
    for i in range(num_images):
        host, dopant = MATERIALS[i % len(MATERIALS)]
        claims = TRUTH | {"host": host, "dopant": dopant, "sampling": SAMPLING}
        of_dose = prior.given(claims | {"dose": bc.log_uniform(1e4, 1e6)})
        given = {"seed": seed, "index": i, "num_pixels": num_pixels, "sampling": SAMPLING}
        pixels = bc.simulate_micrograph(of_dose, **given).intensity.values
        case = functools.partial(Case, f"simulated {i}", pixels=pixels)
        yield case(TRUE, None, claims)
        yield case(SIZE, "sampling", claims | {"sampling": WIDER * SAMPLING})
        for claim, (variable, wrong) in WRONG.items():
            told = {n: v[host] if isinstance(v, dict) else v for n, v in wrong.items()}
            yield case(claim, variable, claims | told)


def real(files: Sequence[Path]) -> Iterator[Case]:
    """Each detector of labelled micrographs under every context."""
    for file in files:
        data = xr.load_dataset(file)
        for name, other in zip(SOFT, reversed(SOFT), strict=True):
            known = {"host": HOST, "beam_energy": data.beam_energy_eV}
            pixels = data.image.sel(detector=name).values
            case = functools.partial(Case, f"{file.stem} {name}", pixels=pixels)
            yield case(TRUE, None, known | SOFT[name])
            yield case(SIZE, "sampling", known | SOFT[name] | {"sampling": WIDER * REAL})
            yield case("angles of the other detector", "detector", known | SOFT[other])
            for claim, (variable, wrong) in WRONG_REAL.items():
                yield case(claim, variable, known | SOFT[name] | wrong)


def judge(case: Case, model: bc.DefectModel) -> dict[str, object]:
    """What ``infer`` by all pixels says of a context: gain, evidence of the claims, warnings."""
    extent, num_pixels = model.prior.num_pixels * model.prior.sampling, model.prior.num_pixels
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always", UserWarning)
        try:
            rings = check_rings(case.context, (), model.domains)
            inputs = read_inputs(
                case.pixels, None, extent, num_pixels, case.context.get("sampling")
            )
            image = Micrograph.of(inputs, rings, model, 256, 0)
            (readings,) = image.by_patches(rings)
        except ValueError as error:
            return {"gain": math.inf, "conflict": {}, "warnings": [f"{REFUSED}: {error}"]}
        best = max((r.alternative for r in readings), key=lambda found: found.log_posterior)
        rings = rings.settle(best.sampling)
        conflict = conflict_by_pixels(rings, image.weigh(rings), image.weigh, model.prior)
        warn_of_claims(conflict, rings)
    return {
        "gain": conflict["context"],
        "conflict": conflict,
        "warnings": sorted({str(w.message) for w in caught}),
        "seconds": time.perf_counter() - start,
    }


def is_named(row: Mapping[str, object]) -> bool:
    """Whether a warning names the claim that is wrong."""
    if row["wrong"] == "sampling":
        return any("pixels of" in warning for warning in row["warnings"])
    weighed = {c: v for c, v in row["conflict"].items() if c not in ("context", "dose")}
    return bool(weighed) and max(weighed, key=weighed.get) == row["wrong"]


def measure(file: Path, cases: Iterator[Case], total: int) -> list[dict[str, object]]:
    """Judge every case; what the file holds already is not done again."""
    done = read_rows(file)
    finished = {(row["image"], row["claim"]) for row in done}
    model = bc.load_model().frozen()
    for case in tqdm(cases, total=total):
        if (case.image, case.claim) not in finished:
            own = {"image": case.image, "claim": case.claim, "wrong": case.wrong}
            done.append(own | judge(case, model))
            append_row(file, done[-1])
    return done


def summarise(rows: Sequence[Mapping[str, object]]) -> str:
    """Table of the claims."""
    lines = []
    for claim in dict.fromkeys(row["claim"] for row in rows):
        mine = [row for row in rows if row["claim"] == claim]
        gains = np.quantile([row["gain"] for row in mine], [0.0, 0.5, 1.0], method="lower")
        refused = sum(row["gain"] == math.inf for row in mine)
        warned = [row for row in mine if row["warnings"] and row["gain"] != math.inf]
        seconds = [row["seconds"] for row in mine if "seconds" in row]
        counts = refused, len(warned), sum(map(is_named, warned))
        together = 100 * (refused + len(warned)) / len(mine)
        lines.append([
            claim, str(len(mine)), *(f"{gain:.1f}" for gain in gains), *map(str, counts),
            f"{together:.0f}", f"{np.mean(seconds or math.nan):.0f}",
        ])  # fmt: skip
    heads = ["least gain", "median", "most", "refused", "warned of", "named", "together (%)", "s"]
    return table(["claims", "images", *heads], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--num-pixels", type=int, default=104)
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="labelled micrographs")
    parser.add_argument("--seed", type=int, default=2100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/wrong_context.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    each = len(WRONG) + 2, len(SOFT) * (len(WRONG_REAL) + 3)
    total = arguments.num_images * each[0] + len(arguments.real) * each[1]
    given = arguments.num_images, arguments.num_pixels, arguments.seed
    rows = measure(arguments.file, itertools.chain(simulated(*given), real(arguments.real)), total)
    body = INTRODUCTION.format(
        num=arguments.num_images,
        pixels=arguments.num_pixels,
        materials=", ".join(f"{d} in {h}" for h, d in MATERIALS[: arguments.num_images]),
        limit=SCREENED,
        real=OF_REAL.format(num=len(arguments.real)) if arguments.real else "",
    )
    body += summarise([row for row in rows if row["image"].startswith("simulated")])
    if arguments.real:
        body += "\nReal micrographs:\n\n"
        body += summarise([row for row in rows if not row["image"].startswith("simulated")])
    write("wrong_context", "Wrong context, by all pixels", body, arguments.seed)


if __name__ == "__main__":
    main()
