"""Figures of docs/physics.md: agreement with multislice, defect classes, contrast against Z."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from report import table, write

import bayesctx as bc
from bayesctx.crystal import ATOMIC_NUMBERS, HOSTS
from bayesctx.defects import DEFECTS, SITES, columns_of, formula_of
from bayesctx.optics import wavelength
from bayesctx.plots import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
CONDITIONS = (
    (80e3, bc.Detector(40.0, 100.0)),
    (60e3, bc.Detector(60.0, 200.0)),
    (80e3, bc.Detector(80.0, 250.0)),
)
"""Beam energy in eV, and the detector."""

SEMIANGLE = 30.0  # mrad
NUM_SETS = 3  # independent sets of frozen phonons, from which the sampling error is estimated
SOURCE = 0.8  # Å, full width at half maximum
DEFECTIVE = {
    ("metal", 1, 0, 0): ("D_M", "W", 0),
    ("chalcogen", 1, 0, 0): ("V_X", "W", 0),
    ("metal", 1, 1, 0): ("D_M", "V", 0),
    ("chalcogen", 1, 1, 0): ("O_X", "W", 0),
    ("chalcogen", 3, 0, 0): ("V_X2", "W", 0),
    ("metal", 3, 1, 0): ("X2_M", "W", 0),
    ("chalcogen", 2, 1, 1): ("Y_X", "W", 0),
    ("chalcogen", 2, 0, 1): ("M_X", "W", 1),
    ("hollow", 0, 1, 1): ("adatom_M", "W", 1),
    ("metal", 2, 1, 1): ("V_M", "W", 0),
}
"""Defects of MoS2: site, cell along x and y, corner or centre; class, dopant and alternative."""

ABERRATIONS = {
    "C10": 20.0,
    "C12": 10.0,
    "phi12": 0.4,
    "C21": 100.0,
    "phi21": 1.0,
    "C23": 50.0,
    "phi23": 0.3,
}
LINE = 1  # cells along x: the profile runs along the armchair direction through four defects
PAIRS = {
    "S2": ("X2", 0),
    "O+S": ("O_X", 0),
    "Se+S": ("Y_X", 0),
    "Te+S": ("Y_X", 2),
    "Mo+S": ("M_X", 0),
    "Mo+Mo": ("adatom_M", 0),
}
LABELS = {
    "O": "O",
    "S": "S",
    "Fe": "Ti ... Co",
    "Se": "Se",
    "Mo": "Nb, Mo",
    "Te": "Te",
    "W": "Ta, W, Re",
}
CLASSES = {
    "S": "V_X, X_M", "S2": "X2, X2_M", "O+S": "O_X", "Se+S": "Y_X", "Te+S": "Y_X", "Mo": "M",
    "Mo+S": "M_X", "Mo+Mo": "adatom_M",
}  # fmt: skip


def name_of(condition: tuple[float, bc.Detector]) -> str:
    energy, detector = condition
    inner, outer = detector.edges
    return f"{inner:.0f}–{outer:.0f} mrad, {energy / 1e3:.0f} keV"


def save(figure: Figure, name: str, num_colours: int | None = None) -> None:
    from PIL import Image

    FIGURES.mkdir(parents=True, exist_ok=True)
    path = FIGURES / f"{name}.png"
    figure.savefig(path, dpi=100, metadata={"Software": None})
    with Image.open(path) as image:
        small = image.convert("RGB")
        if num_colours:
            small = small.quantize(
                num_colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        small.save(path, optimize=True)
    print(f"{path} ({path.stat().st_size / 1e3:.0f} kB)")


def scale_bar(ax: Axes, length: float, colour: str = "white") -> None:
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    style = {"pad": 0.3, "color": colour, "size_vertical": length / 14, "sep": 2}
    bar = AnchoredSizeBar(
        ax.transData, length, f"{length:g} Å", "lower left", fontproperties={"size": 7}, **style
    )
    bar.patch.set(facecolor="black", alpha=0.6, edgecolor="none")
    ax.add_artist(bar)


# the fast image against multislice


def patch_of_defects() -> tuple[list, tuple[float, float], list[tuple[float, float, str]]]:
    """Columns of a periodic patch of MoS2, its periods, and where its defects are."""
    host = HOSTS["MoS2"]
    a = host.lattice_constant
    offsets = {"metal": 0.0, "chalcogen": a / 3**0.5, "hollow": 2 * a / 3**0.5}
    columns, labels = [], []
    for site, offset in offsets.items():
        for i, j, o in np.ndindex(4, 2, 2):
            x, y = (
                (i + o / 2 + 0.25) * a,
                ((j + o / 2) * a * 3**0.5 + offset + 0.5) % (2 * a * 3**0.5),
            )
            defect, dopant, alternative = DEFECTIVE.get((site, i, j, o), (SITES[site][0], "W", 0))
            column = columns_of(defect, host.name, dopant)[alternative]
            columns.append((x, y, column))
            if defect != SITES[site][0]:
                labels.append((x, y, dopant if defect == "D_M" else defect))
    return columns, (4 * a, 2 * a * 3**0.5), labels


def band_limited_scan(cell: tuple[float, float], energy: float) -> list[np.ndarray]:
    """Probe positions that sample a periodic image up to its band limit, twice the semi-angle."""
    rim = sum(1 / length for length in cell) / 2
    orders = [int((2e-3 * SEMIANGLE / wavelength(energy) + rim) * length) for length in cell]
    return [
        np.arange(2 * n + 1) * length / (2 * n + 1) for n, length in zip(orders, cell, strict=True)
    ]


def trigonometric(at: np.ndarray, nodes: np.ndarray, period: float) -> np.ndarray:
    """Weights of an odd number of equidistant nodes in trigonometric interpolation."""
    turn = np.pi * (at[:, None] - nodes) / period
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.sin(len(nodes) * turn) / (len(nodes) * np.sin(turn))
    return np.where(np.abs(np.sin(turn)) < 1e-9, 1.0, weights)


def multislice_of_patch(num_configurations: int, seed: int) -> list[xr.DataArray]:
    """The slow image of every condition; those of one beam energy share a calculation."""
    columns, cell, _ = patch_of_defects()
    found = {}
    for energy in sorted({e for e, _ in CONDITIONS}):
        x, y = band_limited_scan(cell, energy)
        detectors = [d for e, d in CONDITIONS if e == energy]
        slow = bc.multislice_image(
            columns,
            bc.Probe(energy, SEMIANGLE, ABERRATIONS),
            detectors,
            x=x,
            y=y,
            cell=cell,
            num_configurations=num_configurations,
            seed=seed,
            progress=True,
        )
        found |= {(energy, d): image for d, image in zip(detectors, slow, strict=True)}
    return [found[c].rename("truth").reset_coords(drop=True) for c in CONDITIONS]


def truth_of_patch(num_configurations: int, seed: int, folder: Path | None) -> list[xr.Dataset]:
    """Mean of independent sets of frozen phonons, and its standard error from their differences.

    The standard error of ``multislice_image`` ignores that its configurations are stratified.
    """
    sets = []
    for one in range(seed, seed + NUM_SETS):
        files = (
            [folder / f"{num_configurations}_{one}_{i}.nc" for i in range(len(CONDITIONS))]
            if folder
            else []
        )
        if files and all(f.exists() for f in files):
            sets.append([xr.load_dataset(f).truth for f in files])
            continue
        sets.append(multislice_of_patch(num_configurations, one))
        for file, image in zip(files, sets[-1], strict=False):
            file.parent.mkdir(parents=True, exist_ok=True)
            image.to_netcdf(file)
    images = [xr.concat(of_detector, "set") for of_detector in zip(*sets, strict=True)]
    return [
        xr.Dataset({"truth": i.mean("set"), "noise": i.std("set", ddof=1) / NUM_SETS**0.5})
        for i in images
    ]


def with_fast_images(truths: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Add the fast image of every condition, with and without interference; not cached."""
    columns, cell, _ = patch_of_defects()
    found = []
    for (energy, detector), data in zip(CONDITIONS, truths, strict=True):
        probe = bc.Probe(energy, SEMIANGLE, ABERRATIONS)
        place = {"x": data.x.values, "y": data.y.values, "cell": cell}
        fast, plain = (
            bc.column_image(columns, probe, detector, **place, interference=i).values
            for i in (True, False)
        )
        found.append(data.assign(fast=(("y", "x"), fast), plain=(("y", "x"), plain)))
    return found


def draw_agreement(found: Sequence[xr.Dataset]) -> list[list[str]]:
    """Multislice, fast image, difference and profile; returns the numbers of every condition."""
    from matplotlib.patheffects import withStroke

    _, cell, labels = patch_of_defects()
    figure = new_figure((11.5, 7.9))
    axes, rows = figure.subplots(len(CONDITIONS), 4, width_ratios=(1, 1, 1, 1.35)), []
    for row, condition, data in zip(axes, CONDITIONS, found, strict=True):
        peak = float(data.truth.max())
        error = data.fast - data.truth
        rms, noise, plain = (100 * float((v**2).mean() / (data.truth**2).mean()) ** 0.5 for v in (
            error, data.noise, data.plain - data.truth))  # fmt: skip
        net = max(0.0, rms**2 - noise**2) ** 0.5
        rows.append(
            [
                name_of(condition),
                *(
                    f"{v:.2f}"
                    for v in (rms, noise, net, plain, 100 * float(abs(error).max()) / peak)
                ),
            ]
        )
        fine = [np.linspace(0, length, 161) for length in cell]
        wx, wy = (
            trigonometric(f, data[n].values, p) for f, n, p in zip(fine, "xy", cell, strict=True)
        )
        extent = (0, cell[0], cell[1], 0)
        for ax, values in zip(row, (data.truth, data.fast), strict=False):
            shown = ax.imshow(
                100 * wy @ values.values @ wx.T, cmap="gray", vmin=0, vmax=100 * peak, extent=extent
            )
        figure.colorbar(shown, ax=row[1], label="% of the beam", shrink=0.85)
        shown = row[2].imshow(
            100 / peak * wy @ error.values @ wx.T,
            cmap="coolwarm",
            vmin=-1.5,
            vmax=1.5,
            extent=extent,
        )
        figure.colorbar(shown, ax=row[2], label="% of the peak", shrink=0.85)
        row[0].set_ylabel(name_of(condition), fontsize=9)
        row[2].set_xlabel(f"rms {rms:.2f} %, noise of the truth {noise:.2f} %", fontsize=8)
        draw_profile(row[3], data, cell)
        for ax in row[:3]:
            ax.set(xticks=[], yticks=[])
        scale_bar(row[0], 3)
    for ax, title in zip(
        axes[0], ("multislice", "column_image", "difference", "profile along the line"), strict=True
    ):
        ax.set_title(title, fontsize=10)
    axes[0, 1].axvline(
        (LINE + 0.25) * HOSTS["MoS2"].lattice_constant,
        color="#56B4E9",
        linewidth=1,
        linestyle=(0, (4, 3)),
    )
    for x, y, label in labels:
        # on an empty site, beside an atom
        beside = (
            0.0
            if label.startswith("V_") and label != "V_X"
            else 0.75
            if y < 0.85 * cell[1]
            else -0.75
        )
        text = axes[0, 0].text(
            x, y + beside, label, color="#FFD54A", fontsize=7, ha="center", va="center"
        )
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
    save(figure, "agreement")
    return rows


def draw_profile(ax: Axes, data: xr.Dataset, cell: tuple[float, float]) -> None:
    """Both images along a line of atoms; the noise of the truth is smaller than its dots."""
    a = HOSTS["MoS2"].lattice_constant
    wx = trigonometric(np.array([(LINE + 0.25) * a]), data.x.values, cell[0])
    y = np.linspace(0, cell[1], 300)
    line = trigonometric(y, data.y.values, cell[1]) @ data.fast.values @ wx.T
    ax.plot(y, 100 * line[:, 0], color="#0072B2", linewidth=1.2, label="column_image")
    ax.plot(
        data.y,
        100 * (data.truth.values @ wx.T)[:, 0],
        "o",
        color="black",
        markersize=3,
        label="multislice",
    )
    half = a * 3**0.5
    names = {0.5: "W", 0.5 + a / 3**0.5: "S", 0.5 + half: "V", 0.5 + half + a / 3**0.5: "O+S"}
    top = 100 * float(line.max())
    for at, name in names.items():
        ax.text(at, 1.12 * top, name, ha="center", fontsize=8)
    ax.set(ylim=(0, 1.25 * top), xlim=(0, cell[1]), ylabel="% of the beam", xlabel="y [Å]")
    ax.legend(frameon=False, fontsize=7, loc="center right")
    ax.spines[["right", "top"]].set_visible(False)


# every class under the conditions of the cases


def surroundings(host: str, defect: str, dopant: str, radius: float = 14.0) -> tuple[list, str]:
    """Columns around a defect of a perfect crystal, and what stands in the centre."""
    a = HOSTS[host].lattice_constant
    offsets = {"metal": 0.0, "chalcogen": a / 3**0.5, "hollow": -a / 3**0.5}
    site = next(s for s, classes in SITES.items() if defect in classes)
    columns = []
    for i, j in np.ndindex(21, 21):
        x, y = (i - 10 + (j - 10) / 2) * a, (j - 10) * a * 3**0.5 / 2 - offsets[site]
        for kind, perfect in (("metal", "M"), ("chalcogen", "X2")):
            if 0.1 < np.hypot(x, y + offsets[kind]) < radius:
                columns.append((x, y + offsets[kind], columns_of(perfect, host, dopant)[0]))
    column = columns_of(defect, host, dopant)[0]
    return [*columns, (0.0, 0.0, column)], formula_of(column)


def draw_gallery(host: str, dopant: str) -> None:
    """Every class in a host under the six conditions of the 576 cases."""
    axis = np.arange(-3.6, 3.61, 0.1)
    cases = [(c["beam_energy"], bc.Detector.of(c)) for c in bc.tmd_prior().conditions]
    figure = new_figure((12, 5.75))
    axes = figure.subplots(len(cases), len(DEFECTS), gridspec_kw={"hspace": 0.03, "wspace": 0.03})
    for row, case in zip(axes, cases, strict=True):
        energy, detector = case
        optics = bc.Probe(energy, SEMIANGLE, source_size=SOURCE), detector
        place = {"x": axis, "y": axis, "cell": (36.0, 36.0), "interference": False}
        images = [
            bc.column_image(surroundings(host, d, dopant)[0], *optics, **place) for d in DEFECTS
        ]
        # white is a quarter above the perfect crystal: an adatom on a metal column saturates
        white = 1.25 * max(float(images[DEFECTS.index(d)].max()) for d in ("M", "X2"))
        for ax, image in zip(row, images, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=white, extent=(-3.6, 3.6, 3.6, -3.6))
            ax.set(xticks=[], yticks=[])
        inner, outer = detector.edges
        text = f"{energy / 1e3:.0f} keV\n{inner:.0f}–{outer:.0f} mrad\nwhite {100 * white:.2f} %"
        row[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    for ax, defect in zip(axes[0], DEFECTS, strict=True):
        species = surroundings(host, defect, dopant)[1]
        ax.set_title(f"{defect}\n{species if species != '-' else 'empty'}", fontsize=8)
    scale_bar(axes[-1, 0], 2)
    save(figure, f"classes_{host}", num_colours=48)


# contrast against atomic number


def peak(column: tuple, condition: tuple[float, bc.Detector]) -> float:
    """Intensity over the middle of an isolated column, in % of the beam."""
    energy, detector = condition
    probe = bc.Probe(energy, SEMIANGLE, source_size=SOURCE)
    image = bc.column_image(
        [(0.0, 0.0, column)], probe, detector, x=[0.0], y=[0.0], interference=False
    )
    return 100 * float(image.item())


def draw_contrast() -> list[list[str]]:
    """Peaks of single atoms and pairs; returns the exponents of the atomic number."""
    number = np.array(list(ATOMIC_NUMBERS.values()), float)
    figure, rows = new_figure((11, 4.6)), []
    for ax, condition in zip(figure.subplots(1, len(CONDITIONS)), CONDITIONS, strict=True):
        single = {e: peak(((e, 0.0),), condition) for e in ATOMIC_NUMBERS}
        values = np.array(list(single.values()))
        slope, offset = np.polyfit(np.log(number), np.log(values), 1)
        residual = np.log(values) - offset - slope * np.log(number)
        error = float(
            np.sqrt(
                (residual**2).sum()
                / (len(number) - 2)
                / ((np.log(number) - np.log(number).mean()) ** 2).sum()
            )
        )
        scatter = 100 * float(residual.std())
        rows.append([name_of(condition), f"{slope:.2f} ± {error:.2f}", f"{scatter:.0f}"])
        span = np.array([7.0, 85.0])
        ax.loglog(span, np.exp(offset) * span**slope, color="#B8B8B8", linewidth=1.5, zorder=0)
        ax.loglog(number, values, "o", color="#0072B2", markersize=4)
        for element, label in LABELS.items():
            place = {"xytext": (6, -8)} if element != "W" else {"xytext": (-6, 4), "ha": "right"}
            ax.annotate(
                label,
                (ATOMIC_NUMBERS[element], single[element]),
                **place,
                textcoords="offset points",
                fontsize=8,
            )
        stacks = {n: peak(columns_of(d, "MoS2", "W")[v], condition) for n, (d, v) in PAIRS.items()}
        shown = stacks | {n: single[n] for n in ("S", "Mo")}
        for value in shown.values():
            ax.plot(
                [(value / np.exp(offset)) ** (1 / slope), 88],
                [value, value],
                color="#D55E00",
                linewidth=0.6,
                alpha=0.4,
            )
        mark_stacks(ax, shown, single)
        ax.set_title(
            f"{name_of(condition)}:  $Z^{{{slope:.2f}}}$, scatter {scatter:.0f} %", fontsize=9
        )
        ax.set(
            xlim=(7, 260), xlabel="atomic number Z", ylim=(0.7 * values.min(), 2.2 * values.max())
        )
        ax.spines["bottom"].set_bounds(7, 85)
        ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if t > 0.7 * values.min()]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks], fontsize=8)
        ax.set_xticks(
            [8, 16, 24, 34, 42, 52, 74], [str(z) for z in (8, 16, 24, 34, 42, 52, 74)], fontsize=8
        )
        ax.minorticks_off()
        ax.spines[["right", "top"]].set_visible(False)
    figure.axes[0].set_ylabel("peak of a column [% of the beam]")
    save(figure, "contrast")
    return rows


def mark_stacks(ax: Axes, stacks: dict[str, float], single: dict[str, float]) -> None:
    """Label the pairs on the right, close to their intensity, without overlap."""
    low, high = np.log(0.8 * min(single.values())), np.log(2 * max(single.values()))
    gap, at = (high - low) / 24, -np.inf
    for name, value in sorted(stacks.items(), key=lambda item: item[1]):
        at = max(np.log(value), at + gap)
        ax.plot([88, 96], [value, np.exp(at)], color="#D55E00", linewidth=1)
        ax.text(
            98, np.exp(at), f"{name}  ({CLASSES[name]})", fontsize=7.5, va="center", color="#D55E00"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-configurations",
        type=int,
        default=96,
        help="frozen phonons of each of three sets (default: 96)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--truth",
        type=Path,
        help="folder that keeps the multislice, which takes half an hour, between runs",
    )
    arguments = parser.parse_args()
    found = with_fast_images(
        truth_of_patch(arguments.num_configurations, arguments.seed, arguments.truth)
    )
    header = [
        "detector",
        "difference",
        "noise of the truth",
        "noise taken off",
        "without interference",
        "largest, % of the peak",
    ]
    agreement = table(header, draw_agreement(found))
    contrast = table(["detector", "exponent n of Z^n", "scatter around it in %"], draw_contrast())
    draw_gallery("MoS2", "W")
    draw_gallery("WSe2", "V")
    num = NUM_SETS * arguments.num_configurations
    body = f"Relative rms difference of `column_image` from `multislice_image` with {num} frozen "
    body += f"phonons on a patch of MoS2 with ten defects, in %:\n\n{agreement}\n\n"
    body += "Peak intensity of a single atom against its atomic number, 15 elements from O to Re:"
    body += f"\n\n{contrast}"
    write("pictures", "Numbers of the figures", body, arguments.seed)


if __name__ == "__main__":
    main()
