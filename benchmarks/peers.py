"""bayesctx beside other methods: one stream of patches, equal CPU time, the same held-out patches.

Every training is a unit of its own, which appends a row to runs/peers.jsonl when it is finished,
and which is continued where it was killed. ``--tune`` runs the grid of learning rates at a tenth of
the budget; units take the best one. ``--table`` writes the page from all rows so far.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peers_methods.budget import Clock, cpu_seconds
from peers_methods.page import write_page
from peers_methods.registry import METHODS, is_installed
from peers_methods.scoring import COLUMNS, scores
from peers_methods.stream import KNOWN, SEEDS, Stream, single_patches
from rows import append_row, read_rows

from bayesctx.prior import CONTINUOUS

RUNS = Path(__file__).parents[1] / "runs"
HELD_OUT, VALIDATION = 8000, 2000
SUBSETS = {
    "everything": KNOWN,
    "host and dopant": ("host", "dopant"),
    "nothing": (),
    **{f"all but {n}": tuple(m for m in KNOWN if m != n) for n in KNOWN},
}
FEWER = {"host and dopant": 2000, "nothing": 2000} | {f"all but {n}": 1000 for n in CONTINUOUS}
"""Patches for the parts of the context under which bayesctx sums over many draws: it is slow."""
TUNED_ON = ("everything", "all but host")
QUICK = 60.0


def probabilities(
    predictor: object, reads: str, seed: int, num: int, subsets: Mapping, runs: Path
) -> tuple[dict[str, np.ndarray], dict[str, float], np.ndarray]:
    """Class probabilities by what is known, patches per CPU second, and the truth."""
    patches, data = single_patches(num, seed, runs / "peers_stream")
    found, rate = {}, {}
    for name, known in subsets.items():
        used = slice(min(num, FEWER.get(name, num)))
        start = cpu_seconds()
        logits = predictor.predict(
            data.isel(image=used) if reads == "data" else patches.take(used), known
        )
        rate[name] = len(logits) / (cpu_seconds() - start)
        logits = logits - np.logaddexp.reduce(logits, -1, keepdims=True)
        found[name] = np.exp(logits).astype(np.float32)
    return found, rate, patches.defect


def key_of(name: str, budget: float, seed: int, settings: Mapping | None) -> dict[str, object]:
    """What tells a unit from others."""
    return {"method": name, "budget": budget, "seed": seed, "tried": settings}


def run_unit(
    name: str, budget: float, seed: int, runs: Path, settings: Mapping, *, is_trial: bool
) -> dict[str, object]:
    """Train one method and score it, unless its row exists."""
    method, path = METHODS[name], runs / "peers.jsonl"
    key = key_of(name, budget, seed, dict(settings) if is_trial else None)
    done = [r for r in read_rows(path) if {k: r[k] for k in key} == key]
    if done:
        return done[-1]
    folder = runs / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    tried = "-".join(f"{v:g}" for v in settings.values()) if is_trial else "final"
    # a dot would begin a suffix
    stem = folder / f"{name}-{budget:g}-{seed}-{tried}".replace(".", "p")
    checkpoint, kept = stem.with_suffix(".checkpoint"), stem.with_suffix(".clock")
    if not (checkpoint.exists() or any(folder.glob(f"{stem.name}.[0-9]"))):
        kept.unlink(missing_ok=True)  # nothing can be continued
    clock, start = Clock(budget, kept), time.perf_counter()
    stream = Stream(runs / "peers_stream", SEEDS["training"], clock)
    predictor, num_patches = method.fit(stream, clock, seed, checkpoint, **settings)
    row = key | {"settings": dict(settings), "spent": clock.spent, "num_patches": num_patches}
    row["wall"] = time.perf_counter() - start
    of, num = ("validation", VALIDATION) if is_trial else ("held out", HELD_OUT)
    subsets = {n: SUBSETS[n] for n in TUNED_ON} if is_trial else SUBSETS
    found, rate, truth = probabilities(predictor, method.reads, SEEDS[of], num, subsets, runs)
    row["scores"] = {
        n: dict(zip(COLUMNS, np.array(scores(p, truth[: len(p)])).T.tolist(), strict=True))
        for n, p in found.items()
    }
    row["rate"] = rate
    if not is_trial:
        np.savez(stem.with_suffix(".npz"), truth=truth, **found)
    append_row(path, row)
    for file in folder.glob(f"{stem.name}.*"):
        if file.suffix != ".npz":
            file.unlink()
    print(json.dumps({k: v for k, v in row.items() if k not in ("scores", "rate")}), flush=True)
    return row


def tuned(name: str, budget: float, runs: Path, *, seed: int = 0) -> Mapping[str, float]:
    """The settings with the best mean log score on the validation stream at a tenth of a budget."""
    name = METHODS[name].tuned_as or name
    grid = METHODS[name].grid
    if len(grid) == 1:
        return grid[0]
    rows = [run_unit(name, budget / 10, seed, runs, s, is_trial=True) for s in grid]
    scored = [np.mean([r["scores"][n]["log_score"][0] for n in TUNED_ON]) for r in rows]
    return grid[int(np.argmax(scored))]


def middle_of(name: str) -> Mapping[str, float]:
    """The middle of the grid of a method."""
    grid = METHODS[METHODS[name].tuned_as or name].grid
    return grid[len(grid) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--budget", type=float, nargs="+", default=[600.0, 3600.0])
    parser.add_argument("--quick", action="store_true", help="60 s each, without the grid")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", type=json.loads, help="JSON; default: the best of the grid")
    parser.add_argument("--table", action="store_true", help="write the page, train nothing")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budgets = [QUICK] if arguments.quick else arguments.budget
    for budget in [] if arguments.table else budgets:
        for name in arguments.only:
            if not is_installed(METHODS[name]):
                print(f"{name}: {METHODS[name].needs} is not installed, left out")
                continue
            settings = arguments.settings or (
                middle_of(name) if arguments.quick else tuned(name, budget, arguments.runs)
            )
            for seed in arguments.seed:
                run_unit(name, budget, seed, arguments.runs, settings, is_trial=False)
    if arguments.table or not arguments.quick:
        write_page(read_rows(arguments.runs / "peers.jsonl"), arguments.runs, list(SUBSETS))


if __name__ == "__main__":
    main()
