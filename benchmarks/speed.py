"""Speed and memory of ``infer`` for patches and a micrograph, with known and latent context."""

from __future__ import annotations

import argparse
import itertools
import resource
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context

import torch
from report import table, write

import bayesctx as bc

SAMPLING, SIZES, WAYS = 0.2, (160, 512), ("network", "simulator")
CONTEXT = tuple(name for name in bc.CONTEXT if name != "sampling")


def best(call: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of several runs: the machine may be busy with others."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_memory() -> float:
    """Largest resident size of this process so far in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def micrograph(
    path: str | None, seed: int, size: int, way: str, is_known: bool
) -> tuple[float, float]:
    """Seconds and peak memory in GiB of the inference of a micrograph."""
    torch.set_num_threads(2)
    model = bc.load_model(path)
    truth = {"host": "WSe2", "dopant": "Ti"} | dict(
        zip(CONTEXT[2:], (80e3, 25.0, 60.0, 200.0, 0.0, 1e5), strict=True)
    )
    image = bc.simulate_micrograph(
        model.prior.given(truth), seed=seed, num_pixels=size, sampling=SAMPLING
    ).intensity
    known = {"sampling": SAMPLING} | (truth if is_known else {"host": truth["host"]})
    with warnings.catch_warnings():
        # chains of so few draws, which the page is not about
        warnings.simplefilter("ignore", UserWarning)
        seconds = best(
            lambda: bc.infer(image, known, model, likelihood=way), 2 if way == "network" else 1
        )
    return seconds, peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="of a micrograph")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model = bc.load_model(arguments.model)
    data = bc.simulate(model.prior, 6000, seed=arguments.seed)
    few = data.isel(image=slice(0, 1000))
    with torch.no_grad():
        encode = best(
            lambda: [
                model.encoder(chunk) for chunk in torch.from_numpy(data.intensity.values).split(256)
            ]
        )
    runs = [
        (
            "patches, everything known",
            len(data.image),
            best(lambda: bc.infer(data.intensity, data[list(CONTEXT)], model)),
        ),
        (
            "patches, host and dopant known",
            len(few.image),
            best(lambda: bc.infer(few.intensity, few[["host", "dopant"]], model), 1),
        ),
        (
            "patches, everything latent",
            len(few.image),
            best(lambda: bc.infer(few.intensity, {}, model)),
        ),
    ]
    rows = [
        [name, f"{count}", f"{seconds:.2f}", f"{count / seconds:.0f}", ""]
        for name, count, seconds in runs
    ]
    # in a process of its own, so that its memory is that of one image
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for size, way, is_known in itertools.product(SIZES, arguments.ways, (True, False)):
            given = arguments.model, arguments.seed, size, way, is_known
            seconds, memory = pool.apply(micrograph, given)
            known = "context known" if is_known else "host known"
            name = f"{size} x {size} micrograph by the {way}, {known}"
            rows.append([name, "1", f"{seconds:.2f}", "", f"{memory:.2f}"])
    body = (
        table(["task", "images", "s", "images/s", "peak memory (GiB)"], rows)
        + f"\n\nThe encoder alone does {len(data.image) / encode:.0f} patches/s, an upper limit of "
        "the speed of any inference. 1000 draws are returned by the network, 200 by the simulator "
        "and 100 of the larger micrograph. A micrograph has pixels of 0.2 Å and 1e5 e/Å²; its "
        "claims are tested too. The simulator reads it by all of its pixels, which takes minutes "
        "([micrographs by all pixels](pixels.md))."
    )
    write("speed", "Speed of inference", body, arguments.seed)


if __name__ == "__main__":
    main()
