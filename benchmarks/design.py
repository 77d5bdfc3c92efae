"""Advice on what to look up or record next, against random and fixed advice, in realised bits."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from report import table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import HYPOTHESES
from bayesctx.information.resampling import bootstrap
from bayesctx.likelihood import SITE_INPUTS, describe
from bayesctx.model import Materials
from bayesctx.simulation.latents import BLOCK, draw_latents, render_patches
from bayesctx.simulation.rendering import measure_extent

FIRST = {"beam_energy": 80e3, "convergence_semiangle": 25.0, "dose": 2e4}
DETECTORS = {
    "low ring 25-55": {"inner_collection_angle": 25.0, "outer_collection_angle": 55.0},
    "ring 55-80": {"inner_collection_angle": 55.0, "outer_collection_angle": 80.0},
    "high angle 80-200": {"inner_collection_angle": 80.0, "outer_collection_angle": 200.0},
    "high ring 120-250": {"inner_collection_angle": 120.0, "outer_collection_angle": 250.0},
}
OTHERS = {
    "60 keV": {"beam_energy": 60e3},
    "200 keV": {"beam_energy": 200e3},
    "again": {"dose": FIRST["dose"]},
}
SPLITS = (55.0, 65.0, 80.0, 100.0, 120.0)
INNERMOST, OUTERMOST = 25.0, 250.0
OWN = ("background", "background_slope_x", "background_slope_y", "gain", "dark_level", "readout")
LOOKED_UP = [name for name in bc.CONTEXT if name != "sampling"]

INTRODUCTION = """\
Patches of `reference_prior()`, all nuisances, the shipped weights; realised bits are the gain of
the log2 probability of the true class, errors by the paired bootstrap over the patches. Advice: the
candidate with the largest `expected_information_gain`. Random: the mean over the candidates. Best
fixed: the one candidate that is best on average over these very patches, which nobody knows
beforehand. Oracle: the best candidate of each patch with the truth known.

## Which recording next

The first recording has 80 keV, 25 mrad and {dose:.0e} e/Å², its detector is stated, and what is
known of host, dopant and defocus. A further recording shows the same scene (columns, displacements,
aberrations, source) with noise, background and readout of its own, at the same dose. The posterior
of both is `class_given_recordings`.

"""


def recordings(settings: Sequence[Mapping[str, float]], num: int, seed: int) -> xr.Dataset:
    """Scenes of the reference prior, each recorded under all settings: images and truth."""
    prior = bc.reference_prior().given(FIRST | DETECTORS["low ring 25-55"])
    parts = []
    for block in range(-(-num // BLOCK)):
        latents = draw_latents(prior, seed, block)
        images = []
        for i, own in enumerate(settings):
            other = draw_latents(prior, seed + 1000 * i, block)
            image = {
                n: v.new_full(v.shape, own[n]) if n in own else v for n, v in latents.image.items()
            }
            nuisances = latents.nuisances | {n: other.nuisances[n] for n in OWN}
            shown = replace(
                latents, image=image, nuisances=nuisances, noise=other.noise,
                extent=measure_extent(prior, image, nuisances, 1),
            )  # fmt: skip
            images.append(render_patches(prior, shown).intensity[:, 0].numpy())
        names = {"host": list(bc.HOSTS), "dopant": list(bc.crystal.METALS)}
        truth = {n: ("image", np.array(names[n])[latents.image[n].numpy()]) for n in names}
        truth |= {n: ("image", latents.image[n].numpy()) for n in (*FIRST, "defocus")}
        truth["defect"] = ("image", np.array(bc.DEFECTS)[latents.defect[:, 0].numpy()])
        intensity = (("image", "setting", "y", "x"), np.stack(images, 1))
        parts.append(xr.Dataset({"intensity": intensity} | truth))
    return xr.concat(parts, "image").isel(image=slice(num))


def bits_of(probabilities: xr.DataArray, truth: str) -> float:
    """log2 of the probability of the truth."""
    return float(np.log2(max(float(probabilities.sel(defect_class=truth)), 1e-12)))


def known_of(one: xr.Dataset, names: Sequence[str]) -> dict[str, object]:
    """Known context of one patch."""
    return {n: one[n].item() for n in names}


def second_recordings(
    first: str, num: int, known: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Expected and realised bits of every recording, (patch, recording), and their names."""
    candidates = {n: s for n, s in (DETECTORS | OTHERS).items() if n != first}
    settings = [DETECTORS[first] | s for s in candidates.values()]
    data = recordings([DETECTORS[first], *settings], num, seed)
    expected, realised = np.empty((2, num, len(candidates)))
    for i in tqdm(range(num)):
        one = data.isel(image=i)
        context = known_of(one, known) | DETECTORS[first]
        result = bc.infer(one.intensity[[0]].rename(setting="image"), context, num_draws=256)
        found = bc.expected_information_gain(
            result, candidates, num_draws=256, num_outcomes=256, seed=seed
        )
        expected[i] = found.information.sel(candidate=list(candidates))
        before = bits_of(result["class_posterior"].defect[0, 0], one.defect.item())
        for j, own in enumerate(candidates.values()):
            pair = [(own, one.intensity[j + 1])]
            after = bc.class_given_recordings(result, pair, num_draws=512, seed=seed)
            realised[i, j] = bits_of(after, one.defect.item()) - before
    return expected, realised, list(candidates)


def look_ups(num: int, dose: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected and realised bits of every look-up with nothing known, shape (patch, variable)."""
    data = bc.simulate(bc.reference_prior().given({"dose": dose}), num, seed=seed)
    expected, realised = np.empty((2, num, len(LOOKED_UP)))
    before = bc.infer(data.intensity, num_draws=256)
    truth = data.defect
    start = bc.log_score(before["class_posterior"].defect[:, 0], truth)
    for j, name in enumerate(LOOKED_UP):
        after = bc.infer(data.intensity, {name: data[name]}, num_draws=256)
        gain = bc.log_score(after["class_posterior"].defect[:, 0], truth) - start
        realised[:, j] = gain / np.log(2)
    for i in tqdm(range(num)):
        own = before.isel(image=i, missing_dims="ignore")
        found = bc.expected_information_gain(own, LOOKED_UP, num_draws=128, seed=seed)
        expected[i] = found.information.sel(candidate=LOOKED_UP)
    return expected, realised


def compared(expected: np.ndarray, realised: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Rows: realised bits of each advice, and the difference of the advice to it."""
    advised = np.take_along_axis(realised, expected.argmax(1)[:, None], 1)
    fixed = realised.mean(0).argmax()
    columns = np.concatenate([
        advised, realised.mean(1, keepdims=True), realised[:, [fixed]],
        realised.max(1, keepdims=True),
    ], 1)  # fmt: skip
    mean, error = bootstrap(columns)
    gap, gap_error = bootstrap(columns[:, :1] - columns)
    labels = ["advice", "random", f"best fixed: {names[fixed]}", "oracle"]
    return [
        [n, f"{m:.3f} ± {e:.3f}", "" if not i else f"{g:.3f} ± {s:.3f}"]
        for i, (n, m, e, g, s) in enumerate(zip(labels, mean, error, gap, gap_error, strict=True))
    ]


def each_of(expected: np.ndarray, realised: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Rows: expected and realised bits of every candidate, and how often it is advised."""
    chosen = np.bincount(expected.argmax(1), minlength=len(names)) / len(expected)
    mean, error = bootstrap(np.concatenate([expected, realised], 1))
    num = len(names)
    return [
        [n, f"{mean[j]:.3f} ± {error[j]:.3f}", f"{mean[num + j]:.3f} ± {error[num + j]:.3f}",
         f"{100 * chosen[j]:.0f}"]
        for j, n in enumerate(names)
    ]  # fmt: skip


def pairs_of_detectors(num: int, seed: int) -> list[list[str]]:
    """Rows: log score of a low ring, of the rest, and of both, by where the range is split."""
    whole = {"inner_collection_angle": INNERMOST, "outer_collection_angle": OUTERMOST}
    rings = [whole]
    for angle in SPLITS:
        rings += [
            whole | {"outer_collection_angle": angle},
            whole | {"inner_collection_angle": angle},
        ]
    data = recordings(rings, num, seed)
    known, chances = ["host", "dopant", "defocus", *FIRST], []
    for k, ring in enumerate(rings):
        result = bc.infer(data.intensity[:, k], {n: data[n] for n in known} | ring, num_draws=1)
        chances.append(result["class_posterior"].defect[:, 0])
    for k in range(3, 3 * len(SPLITS) + 1, 3):
        # the classes have equal prior probabilities, and everything else is known
        both = chances[k - 2] * chances[k - 1]
        chances.insert(k, both / both.sum("defect_class").clip(min=1e-30))
    scores = [bc.log_score(p, data.defect).values / np.log(2) for p in chances]
    columns = np.stack(scores, 1)
    mean, error = bootstrap(columns)
    gain, gain_error = bootstrap(columns[:, 3::3] - columns[:, [3]])
    rows = [["25-250 alone", "", f"{mean[0]:.3f} ± {error[0]:.3f}", "", ""]]
    for i, angle in enumerate(SPLITS):
        low, rest, both = (f"{mean[k]:.3f} ± {error[k]:.3f}" for k in range(3 * i + 1, 3 * i + 4))
        apart = "" if i == 0 else f"{gain[i]:.3f} ± {gain_error[i]:.3f}"
        rows.append([f"25-{angle:.0f} and {angle:.0f}-250", low, rest, both, apart])
    return rows


def told_apart(num: int, seed: int) -> list[list[str]]:
    """Pairs of classes that one detector tells apart better than the other, and the reverse."""
    rings = [DETECTORS["low ring 25-55"], DETECTORS["high angle 80-200"]]
    data = recordings(rings, num, seed)
    known, chances = ["host", "dopant", "defocus", *FIRST], []
    for k, ring in enumerate(rings):
        context = {n: data[n] for n in known} | ring
        result = bc.infer(data.intensity[:, k], context, num_draws=1)
        chances.append(result["class_posterior"].defect[:, 0])
    rows = []
    for a, b in itertools.combinations(bc.DEFECTS, 2):
        inside = np.isin(data.defect.values, [a, b])
        is_b = (data.defect.values[inside] == b).astype(int)
        scores = []
        for p in chances:
            pair = p.sel(defect_class=[a, b]).values[inside].clip(1e-12)
            own = pair[np.arange(len(pair)), is_b] / pair.sum(1)
            scores.append(1 + np.log2(own))
        mean, error = bootstrap(np.stack([*scores, scores[0] - scores[1]], 1), num_resamples=300)
        if abs(mean[2]) > 3 * error[2] > 0:
            rows.append((mean[2], f"{a}, {b}", mean, error))
    better, worse = (sorted((r for r in rows if s * r[0] > 0), key=lambda r: -s * r[0])[:6]
                     for s in (1, -1))  # fmt: skip
    return [
        [name, *(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True))]
        for _, name, mean, error in (*better, *worse)
    ]


def flips(least: float = 0.03) -> list[list[str]]:
    """Pairs of columns of which the brighter one changes between the two detectors."""
    rings = [DETECTORS["low ring 25-55"], DETECTORS["high angle 80-200"]]
    materials = Materials.of(bc.tmd_prior())
    host = materials.host[:, None].expand(materials.dopant.shape)
    logs = []
    for ring in rings:
        context = {n: torch.tensor(v) for n, v in (FIRST | ring | {"defocus": 0.0}).items()}
        logs.append(describe(host, materials.dopant, context)[..., SITE_INPUTS].flatten(0, 1))
    named = [f"{h.defect} ({' '.join(r for r, _ in h.slots) or '-'})" for h in HYPOTHESES]
    rows = []
    for a, b in itertools.combinations(range(len(HYPOTHESES)), 2):
        if HYPOTHESES[a].defect == HYPOTHESES[b].defect:
            continue
        low, high = (v[:, a] - v[:, b] for v in logs)
        flipped = (low * high < 0) & (low.abs() > least) & (high.abs() > least)
        if flipped.any():
            rows.append([named[a], named[b], int(flipped.sum())])
    return sorted(rows, key=lambda r: -r[2])[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, default=160, help="(default: 160)")
    parser.add_argument("--num-scenes", type=int, default=2048, help="of detectors (default: 2048)")
    parser.add_argument("--seed", type=int, default=8200)
    arguments = parser.parse_args()
    num, seed, start = arguments.num_patches, arguments.seed, time.perf_counter()
    body = INTRODUCTION.format(dose=FIRST["dose"])
    header = ["advice", "realised (bit)", "advice minus it"]
    each = ["candidate", "expected (bit)", "realised (bit)", "advised (%)"]
    everything = ["host", "dopant", "defocus", *FIRST]
    for first, known, count in (
        ("high angle 80-200", everything, num),
        ("low ring 25-55", everything, 3 * num),
        ("low ring 25-55", list(FIRST), num // 2),
    ):
        found = second_recordings(first, count, known, seed)
        rest = "everything" if known == everything else "all but host, dopant and defocus"
        body += f"### First {first} mrad, {rest} known, {count} patches\n\n"
        body += f"{table(header, compared(*found))}\n\n{table(each, each_of(*found))}\n\n"
    many = 5 * num // 2
    body += f"## Which metadata to look up\n\n{many} patches at 1e5 e/Å², nothing known.\n\n"
    found = look_ups(many, 1e5, seed)
    body += table(header, compared(*found, LOOKED_UP)) + "\n\n"
    body += table(each, each_of(*found, LOOKED_UP))
    body += f"\n\n{PAIRS.format(num=arguments.num_scenes)}"
    pair = ["pair of detectors (mrad)", "low ring", "rest", "both", "both, minus the first split"]
    body += table(pair, pairs_of_detectors(arguments.num_scenes, seed))
    body += f"\n\n{FLIPS}"
    apart = told_apart(arguments.num_scenes, seed)
    body += table(["classes", "25-55", "80-200", "difference"], apart) + BRIGHTER
    body += table(["column", "other column", "materials of 96"], flips())
    body += f"\n\nAll of it in {time.perf_counter() - start:.0f} s."
    write("design", "What to look up or record next", body, seed)


PAIRS = """\
## Which pair of detectors

The range of 25 to 250 mrad is divided between two detectors, whose counts are independent; {num}
patches with everything known, 80 keV, 2e4 e/Å². The log score of the class in bits, by the low
ring, by the rest, and by both. The first split is the narrowest low-angle ring that the shipped
model covers (outer angle from 55 mrad on).

"""
FLIPS = """\
## Pairs of classes that flip with the detector

Of patches of two classes, how well each detector alone tells the two apart: 1 + the log2
probability of the true one of the two, 0 bits is guessing, 1 bit certainty. Up to six
pairs each way whose difference is more than three standard errors.

"""
BRIGHTER = """

Pairs of columns of which one is brighter on the low ring and the other at high angles, by more than
3 % of their response at zero frequency (80 keV, perfect focus), by the table of responses:

"""

if __name__ == "__main__":
    main()
