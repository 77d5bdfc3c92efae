"""How far is column_image from full multislice: every run and detector of the reference set."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from report import table, write

from bayesctx import column_image

DETECTORS = {"40-100": (40, 100), "60-200": (60, 200), "80+": (80, np.inf)}


def compare(file: Path) -> list[tuple[str, float, float, float]]:
    run, arrays = json.loads(file.read_text()), np.load(file.with_suffix(".npz"))
    edges = np.array(run["ring_edges_mrad"])
    columns = [(c["x"], c["y"], [tuple(a) for a in c["atoms"]]) for c in run["columns"]]
    atoms = [(x, y, [atom]) for x, y, stack in columns for atom in stack]
    rows = []
    for name, (low, high) in DETECTORS.items():
        chosen = [i for i in range(len(edges) - 1) if edges[i] >= low and edges[i + 1] <= high]
        truth, first, second = (arrays[n][chosen].sum(0) for n in ("rings", "rings_A", "rings_B"))

        def error(image: np.ndarray, truth: np.ndarray = truth) -> float:
            return 100 * float(np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean()))

        optics = {
            "beam_energy": run["energy_eV"],
            "convergence_semiangle": run["semiangle_mrad"],
            "inner_collection_angle": edges[chosen[0]],
            "outer_collection_angle": edges[chosen[-1] + 1],
            "x": run["scan_x_A"],
            "y": run["scan_y_A"],
            "aberrations": run["aberrations_abtem_polar"],
            "cell": run["cell_A"],
        }
        images = [column_image(c, **optics).values.T for c in (columns, atoms)]
        rows.append((name, *map(error, images), error((first - second) / 2 + truth)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="runs of the multislice reference: .json and .npz")
    files = sorted(parser.parse_args().folder.glob("*.json"))
    start, lines, found = time.perf_counter(), [], {}
    for file in files:
        results = compare(file)
        lines.append([file.stem, *(f"{columns:.2f} ({noise:.2f}) / {atoms:.1f}" for _, columns, atoms, noise in results)])
        for name, columns, atoms, noise in results:
            found.setdefault(name, []).append((columns, atoms, noise))
    values = [np.array(found[name]) for name in DETECTORS]
    for label, reduce in (("median", np.median), ("worst", np.max)):
        lines.append([label, *(f"{reduce(v[:, 0]):.2f} ({reduce(v[:, 2]):.2f}) / {reduce(v[:, 1]):.1f}" for v in values)])
    body = (
        "Relative rms difference in % of the sum of columns from full multislice (abTEM, 24 frozen phonons), in brackets the "
        "noise of the multislice itself, after the stroke that of a sum of single atoms. Collection angles in mrad.\n\n"
        + table(["run", *DETECTORS], lines)
        + f"\n\nAll {len(files) * 3} images in {time.perf_counter() - start:.0f} s, single atoms included."
    )
    write("multislice", "The forward model against multislice", body, 0)


if __name__ == "__main__":
    main()
