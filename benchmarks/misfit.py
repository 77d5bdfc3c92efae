"""Images that the model cannot make: whether a posterior is as sure as it is right.

Every reading is a unit of its own, which adds a row to runs/misfit.jsonl when it is finished; what
the file holds already is not done again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from micrographs import is_assigned
from report import table, with_error, write
from rows import append_row, read_rows
from torch import Tensor
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import SPECIES
from bayesctx.optics import mode_orders
from bayesctx.raster import synthesize
from bayesctx.simulation.datasets import PADDING, _draw_field
from bayesctx.simulation.latents import generators
from bayesctx.simulation.rendering import detect
from bayesctx.simulation.scene import place_crystal
from bayesctx.simulation.spectra import add_columns, detector_spectra
from bayesctx.tensors import pixel_axis

RUNS = Path(__file__).parents[1] / "runs"
CASE = {
    "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3,
    "inner_collection_angle": 60.0, "outer_collection_angle": 200.0,
}  # fmt: skip
SAMPLING = 0.2
KNOWN = {"case": CASE, "host": {"host": CASE["host"]}}
WAYS = ("simulator", "network")
STRIPS = 9  # of the image, between which the focus is interpolated
GRADIENT, MILD = 80.0, 20.0  # Å, change of the focus over the image
TILTS = ((1.0, 0.3), (4.0, 2.4))  # deg and rad, of the two halves
PATCHES, CARBON, GRAIN = 3, 0.25, 6.0  # number, share of the peak and Å of the texture
HOT = 1.5  # times the thermal displacement of the middle of the prior
CORRELATED, MEMORY = 0.15, 0.95  # Å, displacement of rows, and its correlation with the row before
WINGS = 0.3  # share of the source
FWHM = math.sqrt(8 * math.log(2))  # of a Gaussian, in standard deviations
LORENTZ = math.sqrt(2 ** (2 / 3) - 1)  # half width at half height of (1 + r^2)^(-3/2)
HUM, TURNS, PERIOD = 0.17, 0.47, 500.0  # Å across the rows; turns of a row, beside whole ones; px
AFTERGLOW = 0.3  # share of the intensity of a pixel that is left in the next one
INTRODUCTION = """\
Simulated micrographs of {pixels} x {pixels} pixels of 0.2 Å, WSe2:Ti at 80 keV, 60 to 200 mrad and
{dose:.0e} e/Å², everything else drawn from `reference_prior()`; the pixel size (to 2 %) is known,
and host, dopant, energy and angles of the detector (case), or the host only. Every image is changed
in one way that is outside of the prior:

- focus: it changes by {gradient:.0f} Å from the left to the right, the mild one by {mild:.0f} Å;
- tilt: the halves of the image are tilted by {first[0]:.0f} and {second[0]:.0f} degrees, in other
  directions;
- carbon: {patches} patches of a film of {carbon:.0%} of the peak with a texture of {grain:.0f} Å;
- thermal: {hot} times the thermal displacements (the prior ends at 1.25);
- source: {wings:.0%} of it have wide wings, (1 + r²/w²)^(-3/2) of the same width at half height as
  the Gaussian rest;
- rows: displacements of {rows} Å of which {memory:.0%} is that of the row before (prior:
  independent, up to .15 Å);
- afterglow: {afterglow:.0%} of the signal of a pixel is left in the next one, so that noise is
  correlated;
- hum: a stray field displaces the beam across the rows by a sine of {hum} Å in time, of which a row
  takes {turns} of a period beside whole ones, and {period:.0f} pixels one: rows are displaced to
  both sides in turn, as in the [real](real.md) scans (the model has a displacement of each row that
  is linear along it; the simulator has none across the rows).

Bits per site, means over the images with standard errors. A posterior is as sure as it is right if
entropy and log score add up to zero; below zero it is too sure. Right and assignment (which
sublattice is the metal) in %. Conflict: images for which `infer` warned that the image speaks
against the context. Signs: images for which it warned that the simulator does not make them; the
default gives the reading by the network of these, by the simulator of the others.

"""


@dataclass(frozen=True, eq=False)
class Scan:
    """One micrograph before it is recorded.

    Attributes
    ----------
    image, nuisances : dict of str to Tensor
        Context and nuisances.
    columns, species : Tensor, shapes (site, 2) and (site,)
        The crystal.
    axis : Tensor, shape (pixel,)
        Positions of the pixels in Å.
    cell : tuple of float
        Periods in Å.
    deviation : Tensor, shape (1, 1, species)
        Errors of additivity.
    rows : Tensor, shape (y,)
        Standard normal variables of the rows.
    """

    image: Mapping[str, Tensor]
    nuisances: Mapping[str, Tensor]
    columns: Tensor
    species: Tensor
    axis: Tensor
    cell: tuple[float, float]
    deviation: Tensor
    rows: Tensor

    def spectrum(self, **changed: float) -> Tensor:
        """Fourier coefficients, with some values changed."""
        rings = {n: self.image[n].view(1, -1) for n in self.image if n.endswith("collection_angle")}
        image, nuisances = dict(self.image) | rings, dict(self.nuisances)
        for name, value in changed.items():
            for values in (image, nuisances):
                if name in values:
                    values[name] = torch.full_like(values[name], value)
        spectra = detector_spectra(image, nuisances, self.deviation, cell=self.cell)[0, 0]
        return add_columns(spectra, self.columns, self.species, cell=self.cell)

    def clean(self, spectrum: Tensor, rows: Tensor | None = None) -> Tensor:
        """Expected fraction of the beam, shape (y, x)."""
        shift = self.rows * self.nuisances["line_jitter"] if rows is None else rows
        return synthesize(spectrum, self.axis, self.axis, cell=self.cell, row_shift=shift)

    def value(self, name: str) -> float:
        """A number of the context or of the nuisances."""
        return float((self.image if name in self.image else self.nuisances)[name])


def as_it_is(scan: Scan, rng: np.random.Generator) -> Tensor:
    """No misfit."""
    return scan.clean(scan.spectrum())


def focus(scan: Scan, rng: np.random.Generator, gradient: float = GRADIENT) -> Tensor:
    """Focus that changes over the image."""
    middle = scan.value("defocus")
    values = middle + gradient * np.linspace(-0.5, 0.5, STRIPS)
    images = torch.stack([scan.clean(scan.spectrum(defocus=float(v))) for v in values])
    place = torch.linspace(0, STRIPS - 1, len(scan.axis))
    below = place.floor().clamp(max=STRIPS - 2).long()
    share = place - below
    column = torch.arange(len(scan.axis))
    first, second = (images[below + k, :, column] for k in (0, 1))
    return ((1 - share)[:, None] * first + share[:, None] * second).mT


def tilt(scan: Scan, rng: np.random.Generator) -> Tensor:
    """Two domains of different tilt."""
    left, right = (scan.clean(scan.spectrum(tilt=t, tilt_azimuth=a)) for t, a in TILTS)
    return torch.where(scan.axis < 0, left, right)


def carbon(scan: Scan, rng: np.random.Generator) -> Tensor:
    """Patches of a film with a texture."""
    clean = scan.clean(scan.spectrum())
    num = len(scan.axis)
    q = np.hypot(np.fft.fftfreq(num, SAMPLING)[:, None], np.fft.rfftfreq(num, SAMPLING))
    noise = np.fft.rfft2(rng.standard_normal((num, num)))
    texture = np.fft.irfft2(noise * np.exp(-2 * (np.pi * GRAIN / 4 * q) ** 2), s=(num, num))
    film = np.clip(1 + 0.5 * texture / texture.std(), 0.0, None)
    reach = np.zeros((num, num))
    at = scan.axis.numpy()
    for y, x in rng.uniform(0.8 * at[0], 0.8 * at[-1], (PATCHES, 2)):
        width = 0.2 * num * SAMPLING
        reach += np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * width**2))
    added = torch.from_numpy(CARBON * np.clip(reach, 0, 1) * film).float()
    return clean + float(clean.max()) * added


def thermal(scan: Scan, rng: np.random.Generator) -> Tensor:
    """Larger thermal displacements."""
    return scan.clean(scan.spectrum(vibration=HOT))


def source(scan: Scan, rng: np.random.Generator) -> Tensor:
    """A source with wide wings, whose transform is exponential."""
    size, spectrum = scan.value("source_size"), scan.spectrum(source_size=0.0)
    qx = torch.arange(spectrum.shape[-1]) / scan.cell[0]
    qy = mode_orders((spectrum.shape[-2] - 1) // 2) / scan.cell[1]
    q = torch.hypot(qx, qy[:, None])
    wide = torch.exp(-2 * math.pi * size / 2 / LORENTZ * q)
    narrow = torch.exp(-2 * (math.pi * size / FWHM * q) ** 2)
    return scan.clean(spectrum * (WINGS * wide + (1 - WINGS) * narrow))


def rows(scan: Scan, rng: np.random.Generator) -> Tensor:
    """Correlated displacements of the scan rows."""
    shift, found = 0.0, []
    for step in rng.standard_normal(len(scan.axis)):
        shift = MEMORY * shift + math.sqrt(1 - MEMORY**2) * CORRELATED * step
        found.append(shift)
    return scan.clean(scan.spectrum(), torch.tensor(found, dtype=torch.float32))


def hum(scan: Scan, rng: np.random.Generator) -> Tensor:
    """A stray field that oscillates displaces the beam across the rows."""
    row, column = torch.meshgrid(*[torch.arange(len(scan.axis)).float()] * 2, indexing="ij")
    phase = 2 * math.pi * (TURNS * row + column / PERIOD + rng.random())
    y = scan.axis[:, None] + HUM * phase.sin()
    spectrum, shift = scan.spectrum(), scan.rows * scan.nuisances["line_jitter"]
    return torch.cat([
        synthesize(spectrum, x[None], place, cell=scan.cell, row_shift=shift)
        for x, place in zip(scan.axis, y.unbind(1), strict=True)
    ], -1)  # fmt: skip


MISFITS: dict[str, Callable[[Scan, np.random.Generator], Tensor]] = {
    "none": as_it_is, "focus": focus, "tilt": tilt, "carbon": carbon, "thermal": thermal,
    "source": source, "rows": rows, "afterglow": as_it_is,
    "mild focus": partial(focus, gradient=MILD), "hum": hum,
}  # fmt: skip


def draw(dose: float, seed: int, index: int, num_pixels: int) -> tuple[Scan, Tensor]:
    """A micrograph before it is recorded, and the positions of its sites in px."""
    prior = bc.reference_prior().given(CASE | {"dose": dose})
    rng = generators(seed, 0, index)
    image, nuisances = _draw_field(rng, prior, num_pixels * SAMPLING)
    cell = (num_pixels * SAMPLING + 2 * PADDING,) * 2
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell[0])
    axis = pixel_axis(num_pixels, SAMPLING)
    normal = [
        torch.from_numpy(rng[3].standard_normal(shape, np.float32))
        for shape in ((1, 1, len(SPECIES)), (num_pixels,))
    ]
    pixels = sites / SAMPLING + (num_pixels - 1) / 2
    return Scan(image, nuisances, columns, species, axis, cell, *normal), pixels


def simulate(name: str, dose: float, seed: int, index: int, num_pixels: int) -> xr.Dataset:
    """A micrograph with a misfit, and the truth of its sites."""
    scan, pixels = draw(dose, seed, index, num_pixels)
    rng = np.random.default_rng([seed, index, list(MISFITS).index(name)])
    clean = MISFITS[name](scan, rng)
    numbers = [
        torch.from_numpy(rng.standard_normal((1, 1, *clean.shape), np.float32)) for _ in range(2)
    ]
    exposure = torch.full((1, 1, 1, 1), dose * SAMPLING**2)
    axis = scan.axis[None, None]
    found = detect(clean[None, None], axis, axis, exposure, scan.nuisances, *numbers)[0, 0]
    if name == "afterglow":
        for k in range(1, found.shape[1]):
            found[:, k] = (1 - AFTERGLOW) * found[:, k] + AFTERGLOW * found[:, k - 1]
    inside = ((pixels > -0.5) & (pixels < num_pixels - 0.5)).all(-1)
    return xr.Dataset({
        "intensity": (("y", "x"), found.numpy(), {"units": "counts"}),
        "site_y": ("patch", pixels[inside, 1].numpy(), {"units": "px"}),
        "site_x": ("patch", pixels[inside, 0].numpy(), {"units": "px"}),
        "defect": ("patch", np.array([SPECIES[k].defect for k in scan.species[inside].tolist()])),
    })  # fmt: skip


def read(data: xr.Dataset, known: str, way: str) -> dict[str, object]:
    """Scores of one image."""
    context = KNOWN[known] | {"sampling": SAMPLING}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = bc.infer(data.intensity.values, context, likelihood=way)
    found = bc.compare(data, result)
    statistics = result["sample_stats"].to_dataset()
    return {
        "sites": found.num_matched.item(),
        "log score": found.log_score.item(),
        "entropy": found.entropy.item(),
        "right": found.accuracy.item(),
        "assignment": is_assigned(result, found),
        "conflict": any("speaks against" in str(w.message) for w in caught),
        "signs": any("that the simulator makes" in str(w.message) for w in caught),
        "r_hat": float(statistics.r_hat.max()) if "r_hat" in statistics else None,
        "seconds": time.perf_counter() - start,
    }


def measure(
    file: Path, num_images: int, num_pixels: int, dose: float, seed: int
) -> list[dict[str, object]]:
    """Read every image in every way; what the file holds already is not done again."""
    done = read_rows(file)
    names = "known", "index", "misfit", "way", "pixels", "dose"
    finished = {tuple(row[n] for n in names) for row in done}
    tasks = itertools.product(KNOWN, range(num_images), MISFITS, WAYS, [num_pixels], [dose])
    file.parent.mkdir(parents=True, exist_ok=True)
    for task in tqdm([t for t in tasks if t not in finished]):
        row = dict(zip(names, task, strict=True))
        try:
            data = simulate(row["misfit"], dose, seed, row["index"], num_pixels)
            row |= read(data, row["known"], row["way"])
        except ValueError as error:  # no lattice is found
            row |= {"lost": str(error)[:100]}
        done.append(row)
        append_row(file, row)
    return done


def by_default(done: list[dict[str, object]]) -> list[dict[str, object]]:
    """All readings of which there is a posterior, and those that the default gives."""
    read = [r for r in done if "lost" not in r]
    given = {(r["known"], r["misfit"], r["index"], r["way"]): r for r in read}
    default = [
        given.get((*place, "network"), r) if r["signs"] else r
        for (*place, way), r in given.items()
        if way == "simulator"
    ]
    return read + [r | {"way": "default"} for r in default]


def rows_of(done: list[dict[str, object]]) -> list[list[str]]:
    """Rows of the table."""
    found = []
    for known, name, way in itertools.product(KNOWN, MISFITS, (*WAYS, "default")):
        mine = [
            r for r in by_default(done) if (r["known"], r["misfit"], r["way"]) == (known, name, way)
        ]
        if not mine:
            continue
        score, entropy = (np.array([r[n] for r in mine]) for n in ("log score", "entropy"))
        found.append([
            known, name, way, str(len(mine)),
            *(with_error(v, 3) for v in (score, entropy, score + entropy)),
            f"{100 * np.mean([r['right'] for r in mine]):.1f}",
            f"{sum(r['assignment'] for r in mine)} of {len(mine)}",
            f"{sum(r['conflict'] for r in mine)} of {len(mine)}",
            f"{sum(r['signs'] for r in mine)} of {len(mine)}",
            f"{np.median([r['seconds'] for r in mine]):.0f}",
        ])  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-images", type=int, default=4, help="of each kind (default: 4)")
    parser.add_argument("--num-pixels", type=int, default=128, help="a side (default: 128)")
    parser.add_argument("--dose", type=float, default=1e5, help="e/Å² (default: 1e5)")
    parser.add_argument("--seed", type=int, default=6100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--file", type=Path, default=RUNS / "misfit.jsonl", help="is gone on")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    given = arguments.num_images, arguments.num_pixels, arguments.dose, arguments.seed
    done = measure(arguments.file, *given)
    header = [
        "known", "misfit", "read by", "images", "log score", "entropy", "sum", "right (%)",
        "assignment right", "conflict", "signs", "s",
    ]  # fmt: skip
    body = INTRODUCTION.format(
        pixels=arguments.num_pixels, dose=arguments.dose, gradient=GRADIENT, mild=MILD,
        first=TILTS[0], second=TILTS[1], patches=PATCHES, carbon=CARBON, grain=GRAIN, hot=HOT,
        rows=CORRELATED, memory=MEMORY, afterglow=AFTERGLOW, wings=WINGS,
        hum=HUM, turns=TURNS, period=PERIOD,
    )  # fmt: skip
    write("misfit", "Images that the model cannot make", body + table(header, rows_of(done)), 0)


if __name__ == "__main__":
    main()
