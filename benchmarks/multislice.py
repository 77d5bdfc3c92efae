"""``column_image`` against full multislice: a reference set, and random cases."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import SITES, Atoms, columns_of

DETECTORS = {"40-100": (40, 100), "60-200": (60, 200), "80+": (80, np.inf)}
NUM_DETECTORS = 4  # random detectors of every random case
NUM_PROBES = 8  # along each side of a window around the defect
BLOCK, MAX_BLOCKS = 32, 16  # frozen phonons that are added at a time, and how often
SUSPECT, SURE = 2.0, 8  # difference in % that asks for so many blocks before it is believed
WINDOW = 2.6  # Å, half of that window
EDGE, PLACE = 12.0, 6.0033  # Å, cell of a single atom, and where in it the atom is
SAMPLINGS = (0.02, 0.01, 0.005)  # Å
TWO_FOLD, THREE_FOLD = (0, 2 * np.pi), (0, 2 * np.pi / 3)
ABERRATIONS = {
    "C10": (-100, 100), "C12": (0, 30), "phi12": TWO_FOLD, "C21": (0, 300), "phi21": TWO_FOLD,
    "C23": (0, 300), "phi23": THREE_FOLD, "C30": (-2e4, 2e4),
}  # fmt: skip

REFERENCE = """\
Relative rms difference from full multislice (abTEM, 24 frozen phonons) in %: `column_image` /
without interference / sum of single atoms (sampling error of the multislice). Collection angles in
mrad.

"""
GRATINGS = """\
A probe of 25 mrad on a single atom at rest between grid points: abTEM over `multislice_image` - 1
in %, for 60-200 / 80-200 mrad, by the sampling of abTEM's gratings. Those of `multislice_image` are
analytic.

"""
RANDOM = """\
{} random cases: host, defect, beam energy 30-300 keV, convergence 18-38 mrad, {} annular detectors
each (inner from 8 mrad beyond the convergence semi-angle to 120), all aberrations, C10 within 100
Å, half of them tilted by up to 5 degrees, against `multislice_image` in a window of 5.2 Å around
the defect, {} to {} frozen phonons until its noise is below {} %, at least 256 where the difference
exceeds 2 % ({} on average). Relative rms difference in %, median / 99th percentile; and the ratio
of the defect to the nearest column.

"""


def rms(image: np.ndarray, truth: np.ndarray) -> float:
    return 100 * float(np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean()))


def compare(file: Path) -> list[tuple[str, float, float, float, float]]:
    """Errors with and without interference, of single atoms, and noise, for every detector."""
    run, arrays = json.loads(file.read_text()), np.load(file.with_suffix(".npz"))
    edges = np.array(run["ring_edges_mrad"])
    columns = [(c["x"], c["y"], [tuple(a) for a in c["atoms"]]) for c in run["columns"]]
    atoms = [(x, y, [atom]) for x, y, stack in columns for atom in stack]
    rows = []
    for name, (low, high) in DETECTORS.items():
        chosen = [i for i in range(len(edges) - 1) if edges[i] >= low and edges[i + 1] <= high]
        truth, first, second = (arrays[n][chosen].sum(0).T for n in ("rings", "rings_A", "rings_B"))
        probe = bc.Probe(run["energy_eV"], run["semiangle_mrad"], run["aberrations_abtem_polar"])
        detector = bc.Detector(edges[chosen[0]], edges[chosen[-1] + 1])
        place = {"x": run["scan_x_A"], "y": run["scan_y_A"], "cell": run["cell_A"]}
        images = [
            bc.column_image(c, probe, detector, **place, interference=i).values
            for c, i in ((columns, True), (columns, False), (atoms, False))
        ]
        rows.append(
            (
                name,
                *(rms(image, truth) for image in images),
                rms((first - second) / 2 + truth, truth),
            )
        )
    return rows


def reference(folder: Path) -> str:
    """Table of the reference set."""
    lines, found = [], {}
    for file in tqdm(sorted(folder.glob("*.json")), unit="run"):
        results = compare(file)
        lines.append(
            [
                file.stem,
                *("{:.2f} / {:.2f} / {:.1f} ({:.2f})".format(*values) for _, *values in results),
            ]
        )
        for name, *values in results:
            found.setdefault(name, []).append(values)
    for label, reduce in (("median", np.median), ("worst", np.max)):
        lines.append(
            [
                label,
                *(
                    "{:.2f} / {:.2f} / {:.1f} ({:.2f})".format(*reduce(found[name], 0))
                    for name in DETECTORS
                ),
            ]
        )
    return table(["run", *DETECTORS], lines)


def draw_case(rng: np.random.Generator) -> tuple[list, bc.Probe, list[bc.Detector], dict, str]:
    """Columns of a random defect in a random host, probe, detectors, place, and its name."""
    host = rng.choice(list(bc.HOSTS))
    material = bc.HOSTS[host]
    dopant = rng.choice(bc.DOPANTS[material.metal])
    a, half = material.lattice_constant, material.chalcogen_separation / 2
    cell = (3 * a, 2 * a * 3**0.5)
    corners = [
        ((i + o) * a, (j + o) * a * 3**0.5) for i in range(3) for j in range(2) for o in (0, 0.5)
    ]
    sites = {
        "metal": corners,
        "chalcogen": [(x, y + a / 3**0.5) for x, y in corners],
        "hollow": [(x, y - a / 3**0.5) for x, y in corners],
    }
    kind = rng.choice(list(sites))
    adatom_on_pair: Atoms = (
        (material.metal, -half - 1.0),
        (material.chalcogen, -half),
        (material.chalcogen, half),
    )
    choices = [(d, c) for d in SITES[kind][1:] for c in columns_of(d, host, dopant)]
    choices += [("adatom on X2", adatom_on_pair)] if kind == "chalcogen" else []
    name, column = choices[rng.integers(len(choices))]
    columns = [
        (x, y, columns_of(c, host, dopant)[0])
        for k, c in (("metal", "M"), ("chalcogen", "X2"))
        for x, y in sites[k]
    ]
    centre = sites[kind][4]
    columns = [c for c in columns if np.hypot(c[0] - centre[0], c[1] - centre[1]) > 0.1] + [
        (*centre, column)
    ]
    semiangle = rng.uniform(18, 38)
    inner = np.exp(rng.uniform(np.log(max(25, semiangle + 8)), np.log(120), NUM_DETECTORS))
    outer = np.minimum(inner * np.exp(rng.uniform(np.log(1.5), np.log(5), NUM_DETECTORS)), 300)
    tilt = rng.uniform(0, 5) * (rng.random() < 0.5)
    azimuth = rng.uniform(0, 2 * np.pi)
    energy = float(np.exp(rng.uniform(np.log(30e3), np.log(300e3))))
    aberrations = {n: rng.uniform(*limits) for n, limits in ABERRATIONS.items()}
    probe = bc.Probe(energy, semiangle, aberrations)
    detectors = [bc.Detector(*map(float, edges)) for edges in zip(inner, outer, strict=True)]
    place = {
        "x": centre[0] + np.linspace(-WINDOW, WINDOW, NUM_PROBES),
        "y": centre[1] + np.linspace(-WINDOW, WINDOW, NUM_PROBES),
        "tilt": (tilt * np.cos(azimuth), tilt * np.sin(azimuth)),
        "cell": cell,
    }
    return columns, probe, detectors, place, f"{host} {name}"


def block(seed: int, number: int, folder: Path) -> xr.DataArray:
    """Multislice of one random case, two independent halves, cached in a file."""
    file = folder / f"case-{seed}-{number}.nc"
    if not file.exists():
        columns, probe, detectors, place, _ = draw_case(np.random.default_rng(seed))
        halves = [
            bc.multislice_image(
                columns,
                probe,
                detectors,
                **place,
                num_configurations=BLOCK // 2,
                seed=2 * (seed + 100_003 * number) + half,
            )
            for half in (0, 1)
        ]
        xr.concat(halves, "half").to_netcdf(file.with_suffix(".part"))
        file.with_suffix(".part").replace(file)
    return xr.load_dataarray(file)


def compare_case(
    seed: int, max_noise: float, folder: Path
) -> tuple[xr.DataArray, list[np.ndarray], list[np.ndarray]]:
    """Multislice (two independent halves) and fast images with and without interference.

    Frozen phonons are added until the halves agree, and up to 256 if the fast image differs by more
    than 2 %, since halves of few phonons may agree by chance.
    """
    columns, probe, detectors, place, _ = draw_case(np.random.default_rng(seed))
    fast, plain = (
        [bc.column_image(columns, probe, d, **place, interference=i).values for d in detectors]
        for i in (True, False)
    )
    total = 0
    for number in range(MAX_BLOCKS):
        total = total + block(seed, number, folder)
        mean = (total / (number + 1)).transpose("detector", "half", "y", "x")
        quiet = max(map(noise, mean.values)) <= max_noise
        alike = (
            max(rms(f, t) for f, t in zip(fast, mean.mean("half").values, strict=True)) <= SUSPECT
        )
        if quiet and (alike or number + 1 >= SURE):
            break
    return mean.assign_coords(num_configurations=BLOCK * (number + 1)), fast, plain


def noise(halves: np.ndarray) -> float:
    """Standard error of the mean of two independent halves in %."""
    return rms(halves[0], halves[1]) / 2


def column_ratio(image: xr.DataArray, columns: list, cell: tuple[float, float]) -> float:
    """Intensity of the last column, the defect, over that of the nearest other one."""

    def around(x: float, y: float) -> xr.DataArray:
        return np.exp(-((image.x - x) ** 2 + (image.y - y) ** 2) / (2 * 0.5**2))

    x, y, _ = columns[-1]
    images = [
        (cx + i * cell[0], cy + j * cell[1])
        for cx, cy, _ in columns[:-1]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    host = min(images, key=lambda c: np.hypot(c[0] - x, c[1] - y))
    return float((image * around(x, y)).sum() / (image * around(*host)).sum())


def evaluate(seed: int, max_noise: float, folder: Path) -> list[dict]:
    """Errors of one random case on all of its detectors."""
    torch.set_num_threads(1)
    columns, probe, _, place, name = draw_case(np.random.default_rng(seed))
    found = []
    for halves, fast, plain in zip(*compare_case(seed, max_noise, folder), strict=True):
        truth = halves.mean("half")
        detector = {
            n: float(halves[n]) for n in ("inner_collection_angle", "outer_collection_angle")
        }
        ratios = [
            column_ratio(i, columns, place["cell"])
            for i in (truth, truth.copy(data=fast), halves[0], halves[1])
        ]
        error, of_truth = rms(fast, truth.values), noise(halves.values)
        found.append(detector | {
            "seed": seed, "name": name,
            "energy": probe.beam_energy / 1e3, "tilt": float(np.hypot(*place["tilt"])),
            "error": error, "without": rms(plain, truth.values), "noise": of_truth,
            "net": float(np.sqrt(max(0, error**2 - of_truth**2))),
            "phonons": int(halves["num_configurations"]),
            "ratio": 100 * (ratios[1] / ratios[0] - 1),
            "ratio_noise": 50 * (ratios[2] / ratios[3] - 1),
            "mean": 100 * float(fast.sum() / truth.sum() - 1),
        })  # fmt: skip
    return found


def summarise(found: list[dict]) -> str:
    """Table of quantiles by inner angle and tilt, and the worst cases."""
    groups = {
        "inner >= 50 mrad": lambda r: r["inner_collection_angle"] >= 50,
        "inner >= 50 mrad, no tilt": lambda r: r["inner_collection_angle"] >= 50 and not r["tilt"],
        "inner < 50 mrad": lambda r: r["inner_collection_angle"] < 50,
        "inner < 50 mrad, no tilt": lambda r: r["inner_collection_angle"] < 50 and not r["tilt"],
    }
    rows = []
    for label, of_group in groups.items():
        members = [r for r in found if of_group(r)]
        if members:
            columns = ([r[n] for r in members] for n in ("error", "net", "without", "noise"))
            cells = [f"{np.median(c):.2f} / {np.quantile(c, 0.99):.2f}" for c in columns]
            of_ratio = (
                np.sqrt(np.mean([r[n] ** 2 for r in members])) for n in ("ratio", "ratio_noise")
            )
            rows.append([label, len(members), *cells, "{:.2f} ({:.2f})".format(*of_ratio)])
    header = [
        "detectors", "images", "column_image", "the same, noise taken off", "without interference",
        "noise of multislice", "ratio of columns, rms (noise)",
    ]  # fmt: skip
    worst = sorted(found, key=lambda r: -r["net"])[:8]
    keys = (
        "name",
        "energy",
        "inner_collection_angle",
        "outer_collection_angle",
        "tilt",
        "error",
        "noise",
        "mean",
    )
    listed = [[r["name"], *(f"{r[k]:.1f}" for k in keys[1:])] for r in worst]
    return table(header, rows) + "\n\nThe worst:\n\n" + table(keys, listed)


def sampled(
    element: str, energy: float, sampling: float, detectors: list[tuple[float, float]]
) -> list[float]:
    """Fraction of the beam on detectors, probe on an atom at rest, by abTEM with that sampling."""
    import abtem
    from ase import Atoms

    abtem.config.set({"diagnostics.progress_bar": False})
    atoms = Atoms(element, positions=[(PLACE, PLACE, 0.01)], cell=(EDGE, EDGE, 1), pbc=True)
    potential = abtem.Potential(
        atoms, sampling=sampling, slice_thickness=1, parametrization="lobato", projection="infinite"
    )
    probe = abtem.Probe(energy=energy, semiangle_cutoff=25)
    waves = probe.multislice(potential, scan=abtem.CustomScan([(PLACE, PLACE)])).compute()
    pattern = waves.diffraction_patterns(max_angle="valid", parity="same")
    angle = np.hypot(*np.meshgrid(*pattern.angular_coordinates, indexing="ij"))
    step = np.mean(pattern.angular_sampling)
    values = np.asarray(pattern.array).reshape(angle.shape)
    rings = [
        np.clip((angle - a) / step + 0.5, 0, 1) * np.clip((b - angle) / step + 0.5, 0, 1)
        for a, b in detectors
    ]
    return [float((values * ring).sum()) for ring in rings]


def gratings() -> str:
    """Table of abTEM over ``multislice_image`` for atoms at rest, by sampling of the gratings."""
    detectors, rows = [(60.0, 200.0), (80.0, 200.0)], []
    for element in ("W", "S"):
        for energy in (80e3, 200e3, 300e3):
            own = bc.multislice_image(
                [(PLACE, PLACE, [(element, 0.0)])],
                bc.Probe(beam_energy=energy, convergence_semiangle=25),
                [bc.Detector(*edges) for edges in detectors],
                x=np.array([PLACE]),
                y=np.array([PLACE]),
                cell=(EDGE, EDGE),
                vibration=0,
                num_configurations=1,
            ).values.ravel()
            cells = []
            for sampling in SAMPLINGS:
                found = np.array(sampled(element, energy, sampling, detectors))
                cells.append(" / ".join(f"{100 * v:+.2f}" for v in found / own - 1))
            rows.append([element, f"{energy / 1e3:.0f}", *cells])
    return GRATINGS + table(["atom", "keV", *(f"{s} Å" for s in SAMPLINGS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--reference", type=Path, help="folder of a multislice reference: .json and .npz"
    )
    parser.add_argument(
        "--num-cases", type=int, default=300, help="random structures and conditions (default: 300)"
    )
    parser.add_argument(
        "--max-noise",
        type=float,
        default=1.5,
        help="of the multislice in %% at the most (default: 1.5)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        default=Path("truth"),
        help="folder of the finished multislice images: a run that was killed goes on",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start, body = time.perf_counter(), []
    if arguments.reference:
        body.append(REFERENCE + reference(arguments.reference))
    if importlib.util.find_spec("abtem"):
        body.append(gratings())
    if arguments.num_cases:
        arguments.truth.mkdir(parents=True, exist_ok=True)
        work = partial(evaluate, max_noise=arguments.max_noise, folder=arguments.truth)
        cases = range(arguments.seed, arguments.seed + arguments.num_cases)
        with get_context("spawn").Pool(arguments.jobs) as pool:
            results = list(tqdm(pool.imap_unordered(work, cases), total=len(cases), unit="case"))
        phonons = int(np.mean([r["phonons"] for r in itertools.chain(*results)]))
        found = sorted(
            itertools.chain(*results), key=lambda r: (r["seed"], r["inner_collection_angle"])
        )
        settings = (
            arguments.num_cases,
            NUM_DETECTORS,
            BLOCK,
            BLOCK * MAX_BLOCKS,
            arguments.max_noise,
            phonons,
        )
        body.append(RANDOM.format(*settings) + summarise(found))
    body.append(f"All of it in {time.perf_counter() - start:.0f} s.")
    write("multislice", "The forward model against multislice", "\n\n".join(body), arguments.seed)


if __name__ == "__main__":
    main()
