"""Log score and entropy by dose, sampling, source size, known context and number of sites."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from curves_points.images import CASE, NETWORK, ORACLE, PIXELS, curve_of_images
from curves_points.known import FINISHED, VARIABLES, curves_of_context
from curves_points.patches import (
    DOSE,
    EXACT,
    LIMIT,
    NUM_DRAWS,
    SHIPPED,
    STEP,
    TOLD,
    WIDTH,
    curves_of_patches,
    plans,
)
from curves_points.scoring import MEASURES, Finished, Points
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from report import FOLDER, commit, machine, table, write

import bayesctx as bc
from bayesctx.simulation import BLOCK

DOSES = tuple(float(f"{d:.3g}") for d in 10 ** np.arange(3, 6.1, 0.5))
SAMPLINGS = (0.1, 0.125, 0.16, 0.2, 0.25, 0.32, 0.4)  # Å, each divides the width of a patch
SOURCES = (0.5, 0.7, 0.9, 1.15, 1.4)  # Å: the range of the prior
QUICK = {"doses": (1e4, 1e5), "samplings": (0.25, 0.4), "sources": (0.9,)}
COLOURS = {
    EXACT: "#000000", TOLD: "#009E73", LIMIT: "#E69F00", SHIPPED: "#0072B2",
    ORACLE: "#000000", PIXELS: "#D55E00", NETWORK: "#0072B2",
}  # fmt: skip
"""Of Okabe and Ito; the limit is black."""
LABELS = {
    EXACT: "limit: exact, in e the oracle", TOLD: "exact, source size known",
    LIMIT: "network of this prior", SHIPPED: "shipped network", PIXELS: "all pixels",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Scores along one variable.

    Attributes
    ----------
    title, label : str
        Of the panel, and of its abscissa with the unit.
    points : Points
        By reading and abscissa.
    limit : str
        The reading that none should be better than.
    is_logarithmic : bool
        Of the abscissa.
    """

    title: str
    label: str
    points: Points
    limit: str = EXACT
    is_logarithmic: bool = False

    def below(self, reading: str, x: float) -> tuple[float, float]:
        """How far the log score is below that of the limit, and its error, over the same units."""
        of_limit = self.points.get((self.limit, x), np.full((3, 1), np.nan))
        return _mean(of_limit[1] - self.points[reading, x][1])


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of the units that were measured."""
    kept = values[np.isfinite(values)]
    error = kept.std(ddof=1) / len(kept) ** 0.5 if len(kept) > 1 else np.nan
    return float(kept.mean()) if len(kept) else np.nan, float(error)


def table_of(curve: Curve) -> str:
    """Means with standard errors."""
    rows = []
    for (reading, x), scores in sorted(curve.points.items(), key=lambda item: item[0][1]):
        entropy, log_score = (_plus(_mean(v)) for v in scores[:2])
        below = curve.below(reading, x)
        gap = "" if reading == curve.limit or np.isnan(below[0]) else _plus(below)
        right = "{:.1f} ± {:.1f}".format(*(100 * v for v in _mean(scores[2])))
        rows.append([short(x), reading, log_score, entropy, right, gap])
    header = [curve.label, "reading", "log score", "entropy", "right (%)", f"below {curve.limit}"]
    return table(header, rows)


def dataset_of(curve: Curve) -> xr.Dataset:
    """Means and standard errors over (reading, x)."""
    readings = list(dict.fromkeys(r for r, _ in curve.points))
    places = sorted({x for _, x in curve.points})
    shape = len(readings), len(places)
    variables = {
        name: (("reading", "x"), np.full(shape, np.nan), {"units": unit})
        for measure, unit in (MEASURES | {"below_limit": "bit"}).items()
        for name in (measure, f"{measure}_error")
    }
    for (reading, x), scores in curve.points.items():
        at = readings.index(reading), places.index(x)
        found = dict(zip(MEASURES, map(_mean, scores), strict=True))
        for name, pair in (found | {"below_limit": curve.below(reading, x)}).items():
            variables[name][1][at], variables[f"{name}_error"][1][at] = pair
    coords = {"reading": readings, "x": ("x", places, {"long_name": curve.label})}
    return xr.Dataset(variables, coords, {"title": curve.title, "limit": curve.limit})


def panel(ax: Axes, curve: Curve, letter: str) -> None:
    """Minus the log score with errors, and the entropy, of every reading."""
    places = sorted({x for _, x in curve.points})
    for reading in dict.fromkeys(r for r, _ in curve.points):
        own = [x for x in places if (reading, x) in curve.points]
        colour, measured = COLOURS[reading], [curve.points[reading, x] for x in own]
        loss, entropy = ([_mean(sign * s[i]) for s in measured] for i, sign in ((1, -1), (0, 1)))
        # beside each other, where errors would cover each other
        k = list(COLOURS).index(reading) % 4 - 1.5
        span = np.log(places[-1] / places[0]) if curve.is_logarithmic else places[-1] - places[0]
        shift = 0.006 * k * span
        at = np.array(own) * np.exp(shift) if curve.is_logarithmic else np.array(own) + shift
        ax.errorbar(at, *np.transpose(loss), fmt="o-", color=colour, markersize=4, capsize=2,
                    linewidth=1.3, elinewidth=0.9)  # fmt: skip
        ax.errorbar(at, *np.transpose(entropy), fmt="s--", color=colour, markersize=4, capsize=2,
                    markerfacecolor="white", linewidth=1, elinewidth=0.5)  # fmt: skip
    if curve.is_logarithmic:
        ax.set_xscale("log")
    ax.set_xlabel(curve.label)
    ax.set_ylabel("bits per site")
    ax.set_ylim(bottom=0)
    ax.set_title(f"{letter}  {curve.title}", loc="left", fontsize=10)
    ax.grid(color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)


def figure(curves: Sequence[Curve]) -> Figure:
    """A panel for every curve, and the legend in the last place."""
    drawn = Figure(figsize=(10.5, 6.4), layout="constrained")
    axes = drawn.subplots(2, 3).ravel()
    for ax, curve, letter in zip(axes, curves, "abcde", strict=False):
        panel(ax, curve, letter)
    places = sorted({x for _, x in curves[-1].points})
    axes[4].set_xticks(places, [f"{x:g}" for x in places])
    axes[4].minorticks_off()
    axes[3].set_xticks(range(len(VARIABLES) + 1))
    labels = {r: LABELS[r] for r in LABELS if any(r == q for c in curves for q, _ in c.points)}
    keys = [Line2D([], [], color=COLOURS[r], linewidth=3, label=t) for r, t in labels.items()]
    plain = {"color": "#555555", "markersize": 5}
    keys.append(Line2D([], [], marker="o", label="minus the log score", **plain))
    keys.append(Line2D([], [], marker="s", linestyle="--", markerfacecolor="white",
                       label="entropy", **plain))  # fmt: skip
    axes[5].axis("off")
    axes[5].legend(handles=keys, loc="center", frameon=False, fontsize=10)
    return drawn


INTRODUCTION = """\
Patches (a to d): one defect in a perfect crystal, `limit_prior()`, thirteen classes with equal
probabilities, {width:g} x {width:g} Å, 28 mrad, in focus, {dose} e/Å² and pixels of {step:g} Å
where these do not vary. Host, dopant, beam energy, detector, dose, probe and sampling are known, in
d only as many variables as stated, besides dose and probe. Rotation, offset, source size,
background, gain and dark level are unknown; in green the source size is known as well. Exact means
the likelihood of the simulator that made the patches, with the unknowns integrated out by
importance sampling ({draws} draws or more for every column): no reading with the same knowledge can
have a higher log score in the mean. Whole micrographs (e): {case}, {dose} e/Å², pixels of 0.2 Å,
drawn from `reference_prior()` with all of its nuisances; the host and the pixel size are known.
Their limit is the oracle, the reading by all pixels that is told the context and the true probe,
source, tilt, vibration and strain. Scores are in bits of the class of a site. The entropy of a
calibrated posterior equals minus its log score: solid and dashed lines of it agree within errors.

![Minus the log score and the entropy by dose, sampling, source size, known variables and
sites](curves.png)

- a, b, c: {cases} cases, {each} patches of each, the same cases and random numbers at every point:
  all hosts, and all conditions and dopants of the 576 cases in turn. Errors are standard errors
  over the cases; points of one curve share them, so that steps between points are surer than the
  errors say. Below: the mean over the cases of the exact log score minus that of the reading.
- c: the source size of all patches of a point is held at its value. The readings in black, orange
  and blue do not know it, and expect any from 0.5 to 1.4 Å; the one in green does.
- d: {finished} patches of [the Bayes limit](bayes_limit.md), whose exact evidence under all cases
  is kept there; means over all sets of as many of the four variables host, dopant, beam energy and
  detector (inner and outer angle). Errors are standard errors over the patches. The figure is at
  {dose} e/Å².
- e: {images}. Standard errors over the images, of which there are few; a larger field of one index
  shares its world with the smaller ones. Below: over the images that both have read. Fields below
  six lattice constants (about 125 sites) are refused by `infer`: no lattice can be fitted.
- network of this prior: `limit.safetensors`, trained on the same simulation at 1e4, 1e5 and 1e6
  e/Å² and pixels of {step:g} Å, and shown there only.
- shipped: the reference model, trained on all nuisances (aberrations, tilt, defects beside the site
  and more). It expects more than these patches hold, so that a part of its distance from the limit
  is its prior and not its approximation.
"""

SAMPLING = """\
The patch keeps its width and the dose per Å², so that smaller pixels share the same electrons.
Three things limit this curve. The readout noise (0.5 electrons in each pixel) grows with the number
of pixels. Pixels are samples: those above wavelength / (4 x 28 mrad), which is
{nyquist}, cannot hold all that the probe transmits. The
networks read 32 x 32 pixels of {step:g} Å: `infer` resamples other patches to them by a cubic
kernel, which averages smaller pixels over the width of one of its own, and interpolates larger
ones. The exact model takes the pixels as they are.
"""


def nyquist() -> str:
    """The largest pixels that hold all that a probe of 28 mrad transmits, by energy."""
    energies = sorted({float(c["beam_energy"]) for c in bc.limit_prior().conditions})
    sizes = [float(bc.optics.wavelength(torch.tensor(e))) / (4 * 28e-3) for e in energies]
    return ", ".join(
        f"{s:.2f} Å at {e / 1e3:.0f} keV" for e, s in zip(energies, sizes, strict=True)
    )


def short(x: float) -> str:
    """A number with few characters."""
    return f"{x:.3g}".replace("e+0", "e")


def _plus(values: tuple[float, float]) -> str:
    """A mean with its error."""
    return "{:.4f} ± {:.4f}".format(*values)


def ends(curve: Curve, reading: str) -> tuple[np.ndarray, np.ndarray]:
    """Log scores at the two ends of a curve."""
    own = sorted(x for r, x in curve.points if r == reading)
    return curve.points[reading, own[0]][1], curve.points[reading, own[-1]][1]


def gain(curve: Curve, reading: str) -> str:
    """The step between the ends of a curve, over the same units."""
    first, last = ends(curve, reading)
    return _plus(_mean(last - first))


def along(curve: Curve, reading: str) -> str:
    """The log score at both ends of a curve, and the step between them."""
    first, last = (_plus(_mean(v)) for v in ends(curve, reading))
    return f"{first} to {last}, a step of {gain(curve, reading)}"


def distances(curve: Curve, reading: str) -> str:
    """The range of the distances of a reading from the limit along a curve."""
    gaps = [curve.below(r, x)[0] for r, x in curve.points if r == reading]
    return f"{min(gaps):.4f} to {max(gaps):.4f}"


def tested(curves: Sequence[Curve]) -> str:
    """Whether a reading exceeds the limit, and whether the limit is calibrated, in errors."""
    gaps = [
        (curve.below(r, x), r, f"{curve.label} {short(x)}")
        for curve in curves
        for r, x in curve.points
        if r not in (curve.limit, TOLD) and curve.below(r, x)[1] > 0
    ]
    (gap, error), reading, place = min(gaps, key=lambda g: g[0][0] / g[0][1])
    exact = [(c, x, s) for c in curves for (r, x), s in c.points.items() if r == EXACT]
    off = [(_mean(s[0] + s[1]), f"{c.title}, {short(x)}") for c, x, s in exact]
    more, at = max(off, key=lambda o: abs(o[0][0] / o[0][1]))
    found = "never above the limit" if gap >= 0 else f"at most {-gap / error:.1f} errors above it"
    return (
        f"In {len(gaps)} comparisons a reading is {found} (least distance in errors: "
        f"{gap:.4f} ± {error:.4f} bits, {reading}, {place}). The entropy of the exact posterior "
        f"differs most from minus its log score at {at}, by {_plus(more)} bits."
    )


def statements(curves: Mapping[str, Curve]) -> str:
    """What the curves show, from their numbers."""
    dose, sampling, source = (curves[n] for n in ("dose", "sampling", "source"))
    told = [
        _mean(source.points[TOLD, x][1] - source.points[EXACT, x][1])
        for r, x in source.points
        if r == TOLD
    ]
    lines = [
        f"Over the doses the exact log score goes from {along(dose, EXACT)} bits; the shipped "
        f"network is {distances(dose, SHIPPED)} bits below, the network of this prior "
        f"{distances(dose, LIMIT)}.",
        f"From the smallest to the largest pixels the exact log score goes from "
        f"{along(sampling, EXACT)} bits, and that of the shipped network from "
        f"{along(sampling, SHIPPED)}.",
        f"From the smallest to the largest source the exact log score goes from "
        f"{along(source, EXACT)} bits; to know the source size adds {min(told)[0]:.4f} to "
        f"{max(told)[0]:.4f} bits (errors up to {max(e for _, e in told):.4f}).",
    ]
    worth = [
        f"{curve.title.split(' at ')[1]}: exact {gain(curve, EXACT)}, network of this prior "
        f"{gain(curve, LIMIT)}, shipped {gain(curve, SHIPPED)}"
        for name, curve in curves.items()
        if name.startswith("context")
    ]
    lines.append(f"All four variables add to the log score at {'; at '.join(worth)} bits.")
    sites = curves.get("sites")
    if sites and {ORACLE, PIXELS} <= {r for r, _ in sites.points}:
        lines.append(
            f"From the fewest to the most sites the log score of the oracle goes from "
            f"{along(sites, 'oracle')}, by all pixels from {along(sites, 'all pixels')}, and by "
            f"the network from {along(sites, 'network')}; all pixels are "
            f"{distances(sites, 'all pixels')} below the oracle, the network "
            f"{distances(sites, 'network')}."
        )
    lines.append(tested(list(curves.values())))
    return "\n".join(f"- {line}" for line in lines)


def noise(points: Mapping[str, Points]) -> str:
    """What other draws of the nuisances change."""
    changes = [
        f"{_plus(_mean(scores[1] - points['dose'][EXACT, dose][1]))} bits at {short(dose)} e/Å²"
        for (_, dose), scores in points["again"].items()
        if (EXACT, dose) in points["dose"]
    ]
    return f"Other draws of the integration change the exact log score by {', '.join(changes)}."


def curves_of(
    points: Mapping[str, Points], context: Mapping[float, Points], images: Points
) -> dict[str, Curve]:
    """All curves by name; d is drawn at one dose."""
    found = {
        "dose": Curve("dose", "dose (e/Å²)", points["dose"], is_logarithmic=True),
        "sampling": Curve("sampling", "sampling (Å/px)", points["sampling"]),
        "source": Curve("source size", "source size, FWHM (Å)", points["source"]),
    }
    for dose, own in context.items():
        title = f"known context at {short(dose)} e/Å²"
        found[f"context_{short(dose)}"] = Curve(title, "known variables of four", own)
    if images:
        found["sites"] = Curve("whole micrographs", "sites of the image", images, "oracle", True)
    return found


def publish(curves: Mapping[str, Curve], body: str, seed: int) -> None:
    """Write the page, the figure and the data."""
    at_dose = next(n for n, c in curves.items() if short(DOSE) in c.title)
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = [curves[n] for n in ("dose", "sampling", "source", at_dose, "sites") if n in curves]
    figure(drawn).savefig(FOLDER / "curves.png", dpi=100, pil_kwargs={"optimize": True})
    command = " ".join(["python", "benchmarks/curves.py", *sys.argv[1:]])
    about = {"seed": seed, "commit": commit(), "machine": machine(), "command": command}
    tree = {"/": xr.Dataset(attrs=about)} | {n: dataset_of(c) for n, c in curves.items()}
    xr.DataTree.from_dict(tree).to_netcdf(FOLDER / "curves.nc")
    write("curves", "Log score and entropy along five variables", body, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-cases", type=int, default=24, help="of 576 (default: 24)")
    parser.add_argument("--each", type=int, default=12, help="patches of a case (default: 12)")
    parser.add_argument("--num-images", type=int, default=3, help="by all pixels (default: 3)")
    parser.add_argument("--seed", type=int, default=9100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--file", type=Path, default=Path("runs/curves.jsonl"), help="is gone on")
    parser.add_argument("--quick", action="store_true", help="a few patches; writes nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = {"num_cases": arguments.num_cases, "each": arguments.each}
    ranges = {"doses": DOSES, "samplings": SAMPLINGS, "sources": SOURCES}
    if arguments.quick:
        sizes, ranges = {"num_cases": 2, "each": 4}, QUICK
    finished = Finished(None if arguments.quick else arguments.file)
    seed, num_patches = arguments.seed, BLOCK if arguments.quick else FINISHED
    points, least = curves_of_patches(finished, plans(**ranges), **sizes, seed=seed)
    context = curves_of_context(num_patches)
    images, counts = {}, {}
    if not arguments.quick:
        images, counts = curve_of_images(finished, arguments.num_images, seed)
    curves = curves_of(points, context, images)
    said = {"width": WIDTH, "dose": short(DOSE), "step": STEP, "draws": NUM_DRAWS, "case": CASE}
    said |= {"cases": sizes["num_cases"], "each": sizes["each"], "finished": num_patches}
    text = ", ".join(f"{r}: {n} images read, {lost} not" for r, (n, lost) in counts.items() if n)
    if not arguments.num_images:
        text += ".\n  The oracle and the readings by all pixels were left out"
    parts = [INTRODUCTION.format(**said, images=text)]
    for curve in curves.values():
        parts.append(f"## {curve.title[0].upper()}{curve.title[1:]}\n")
        if curve.title == "sampling":
            parts.append(SAMPLING.format(nyquist=nyquist(), step=STEP))
        parts.append(table_of(curve) + "\n")
    parts.append(f"## What the curves show\n\n{statements(curves)}\n")
    parts.append(f"{noise(points)} A patch of a to c has {least:.0f} effective draws or more.")
    if arguments.quick:
        print("\n".join(parts[1:]))
    else:
        publish(curves, "\n".join(parts), seed)


if __name__ == "__main__":
    main()
