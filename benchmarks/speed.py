"""How fast is infer: patches and a micrograph, with the context known and latent, and the memory that it takes."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch
from report import table, write

import bayesctx as bc

CONTEXT = (
    "host",
    "dopant",
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)


def best(call: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of several runs: the machine may be busy with others."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    model = bc.load_model(arguments.model)
    data = bc.simulate(model.prior, 6000, seed=arguments.seed)
    few = data.isel(image=slice(0, 1000))
    prior = model.prior.given(
        {
            "host": "WSe2",
            "dopant": "Ti",
            "beam_energy": 80e3,
            "inner_collection_angle": 60.0,
            "outer_collection_angle": 200.0,
            "dose": 2e5,
        }
    )
    image = bc.simulate_micrograph(prior, seed=arguments.seed, num_pixels=512, sampling=0.25)
    known = {n: float(image[n]) for n in CONTEXT[2:]} | {"host": "WSe2", "dopant": "Ti"}
    encode = best(lambda: model.encoder(torch.from_numpy(data.intensity.values)))
    runs = [
        ("patches, everything known", len(data.image), best(lambda: bc.infer(data.intensity, data[list(CONTEXT)], model))),
        (
            "patches, host and dopant known",
            len(few.image),
            best(lambda: bc.infer(few.intensity, few[["host", "dopant"]], model), 1),
        ),
        ("patches, everything latent", len(few.image), best(lambda: bc.infer(few.intensity, {}, model))),
    ]
    rows = [[name, f"{count}", f"{seconds:.2f}", f"{count / seconds:.0f}"] for name, count, seconds in runs]
    for name, context in (("known", known), ("latent", {"sampling": 0.25})):
        seconds = best(lambda c=context: bc.infer(image.intensity, c, model), 1)
        rows.append([f"512 x 512 micrograph, context {name}", "1", f"{seconds:.2f}", ""])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    body = (
        table(["task", "images", "s", "images/s"], rows)
        + f"\n\nThe encoder alone does {len(data.image) / encode:.0f} patches/s: the floor of every inference. "
        f"Peak memory of the whole benchmark {memory:.2f} GiB, 1000 draws throughout."
    )
    write("speed", "Speed of inference", body, arguments.seed)


if __name__ == "__main__":
    main()
