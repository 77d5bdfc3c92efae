"""Speed of the simulation of patches, compared with PRISM of abTEM and with the machine."""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time
from multiprocessing import get_context

import torch
from report import table, write

import bayesctx as bc
from bayesctx.crystal import MONOLAYER_1H
from bayesctx.simulation import BLOCK, draw_block

SECONDS = 8.0  # of every measurement
MATERIAL = bc.HOSTS["MoS2"]
CONDITION = {"host": "MoS2", "dopant": "W", "beam_energy": 80e3, "convergence_semiangle": 30.0,
             "inner_collection_angle": 60.0, "outer_collection_angle": 200.0}  # fmt: skip
COLUMNS = 2 * (32 * 0.25) ** 2 / (MATERIAL.lattice_constant**2 * 3**0.5 / 2)  # in a patch of 8 Å
EDGE = 18.5  # Å, cell around a patch, as the simulator has it


def draw(task: tuple) -> tuple[int, float, float]:
    """Patches drawn in some seconds by one process, those seconds, and its memory in MiB."""
    prior, first, patches_per_image, noise = task
    torch.set_num_threads(1)
    draw_block(prior, 0, first, patches_per_image=patches_per_image, noise=noise)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        count += 1
        draw_block(prior, 0, first + count, patches_per_image=patches_per_image, noise=noise)
    return (
        count * BLOCK,
        time.perf_counter() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def rate(prior: bc.Prior, patches_per_image: int, noise: bool, jobs: int) -> tuple[float, float]:
    """Patches per second of all processes together, and the memory of the largest in MiB."""
    tasks = [(prior, 10_000 * job, patches_per_image, noise) for job in range(jobs)]
    with get_context("spawn").Pool(jobs) as pool:
        done = pool.map(draw, tasks, chunksize=1)
    return sum(n / s for n, s, _ in done), max(m for *_, m in done)


def memory(prior: bc.Prior, num_blocks: int) -> float:
    """Peak memory in MiB of a process that draws so many blocks."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_draw_many, (prior, num_blocks))


def _draw_many(prior: bc.Prior, num_blocks: int) -> float:
    torch.set_num_threads(1)
    for block in range(num_blocks):
        draw_block(prior, 0, block, patches_per_image=BLOCK)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def prism(interpolation: int) -> float:
    """Seconds of abTEM's PRISM for a patch of MoS2 (32 x 32 probes), one frozen phonon."""
    import abtem
    from ase import Atoms

    half, a = MATERIAL.chalcogen_separation / 2, MATERIAL.lattice_constant
    places = []
    for x, y, site in [
        (x, y, s) for (x, y), s in zip(*MONOLAYER_1H.sites_around(a, 0.75 * EDGE), strict=True)
    ]:
        if max(abs(x), abs(y)) < EDGE / 2:
            stack = (
                [("Mo", 0.0)]
                if site == "metal"
                else [("S", -half), ("S", half)]
                if site == "chalcogen"
                else []
            )
            places += [(e, x + EDGE / 2, y + EDGE / 2, z + 3) for e, z in stack]
    atoms = Atoms(
        [e for e, *_ in places], positions=[p for _, *p in places], cell=(EDGE, EDGE, 6), pbc=True
    )
    phonons = abtem.FrozenPhonons(atoms, num_configs=1, sigmas={"Mo": 0.06, "S": 0.075}, seed=0)
    potential = abtem.Potential(
        phonons, sampling=0.05, slice_thickness=1.5, parametrization="lobato", projection="infinite"
    )
    waves = abtem.SMatrix(
        potential=potential, energy=80e3, semiangle_cutoff=30, interpolation=interpolation
    )
    scan = abtem.GridScan((EDGE / 2 - 4, EDGE / 2 - 4), (EDGE / 2 + 4, EDGE / 2 + 4), sampling=0.25)
    abtem.config.set({"diagnostics.progress_bar": False})
    start = time.perf_counter()
    waves.scan(scan=scan, detectors=abtem.AnnularDetector(60, 200)).compute()
    return time.perf_counter() - start


def matrix_product(jobs: int) -> float:
    """GFLOP/s of all processes in the products of cosines and sines that a patch consists of."""
    with get_context("spawn").Pool(jobs) as pool:
        return sum(pool.map(_multiply, [None] * jobs, chunksize=1))


def _multiply(_: None) -> float:
    torch.set_num_threads(1)
    a, b = torch.randn(128, 50, 41), torch.randn(128, 41, 50)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 3:
        torch.bmm(a, b)
        count += 1
    return count * 2 * a.numel() * 50 / (time.perf_counter() - start) / 1e9


def flops(orders: int = 24, pixels: int = 32, columns: int = 41) -> float:
    """Real operations in the matrix products of a noise-free patch: structure factors and image."""
    width = 2 * (orders + 1)
    return 2 * (2 * width * columns * width + pixels * width * width + pixels * width * pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    arguments = parser.parse_args()
    jobs = arguments.jobs
    torch.set_num_threads(1)
    priors = {
        "reference": bc.reference_prior(),
        "MoS2, 80 keV, 60-200 mrad": bc.tmd_prior().given(CONDITION),
    }
    rows, best = [], {}
    for name, prior in priors.items():
        for number in (BLOCK, 64, 16, 1):
            (clean, _), (noisy, most) = (
                rate(prior, number, noise, jobs) for noise in (False, True)
            )
            best.setdefault(name, clean)
            rows.append(
                [
                    name,
                    number,
                    f"{clean:.0f}",
                    f"{noisy:.0f}",
                    f"{noisy * COLUMNS:.2g}",
                    f"{most:.0f}",
                ]
            )
    header = [
        "prior",
        "patches per image",
        "noise-free patches/s",
        "complete patches/s",
        "columns/s",
        "memory (MiB)",
    ]
    body = f"{jobs} processes of one thread.\n\n" + table(header, rows)
    few, many = (memory(priors["reference"], n) for n in (8, 200))
    body += f"\n\nMemory after {8 * BLOCK} patches {few:.0f} MiB, "
    body += f"after {200 * BLOCK} patches {many:.0f} MiB."
    speed, clean = matrix_product(jobs), best["reference"]
    ceiling = speed * 1e9 / flops()
    body += (
        f"\n\nUpper limit: a noise-free patch with 24 orders takes {flops() / 1e6:.2f} million "
        f"operations in matrix products, which run at {speed:.0f} GFLOP/s here in products of this "
        f"size: at most {ceiling:.0f} patches/s. Measured are {100 * clean / ceiling:.0f} % of "
        "that; the rest is the scene, the optics, phases and elementwise work."
    )
    if importlib.util.find_spec("abtem"):
        lines = []
        for interpolation in (1, 2):
            seconds = prism(interpolation)
            ratio = best["MoS2, 80 keV, 60-200 mrad"] * seconds
            lines.append(
                [
                    interpolation,
                    f"{seconds:.1f}",
                    f"{COLUMNS / seconds:.2f}",
                    f"{ratio:.2g}",
                    f"{24 * ratio:.2g}",
                ]
            )
        body += (
            "\n\nabTEM, PRISM of the same patch (0.05 Å, one frozen phonon, all threads), and the "
            "ratio of columns per second, noise-free, for one frozen phonon and for the 24 that a "
            "converged image takes:\n\n"
            + table(
                [
                    "interpolation",
                    "s per patch",
                    "columns/s",
                    "ratio, 1 phonon",
                    "ratio, 24 phonons",
                ],
                lines,
            )
        )
    else:
        body += "\n\nabTEM is not installed (`pip install bayesctx[bench]`): no comparison."
    write("simulation", "Speed of simulation", body, 0)


if __name__ == "__main__":
    main()
