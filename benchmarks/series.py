"""Time and memory of a folder of micrographs, and what a series tells of its crystal and session.

Parts are measured one by one into --work, and the page is written from those that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from report import table, write
from scipy.special import ndtri

import bayesctx as bc

SIZE = {"num_pixels": 128, "sampling": 0.2}
STATED = {"host": "WSe2", "sampling": 0.2}
INSTRUMENT = (
    "beam_energy", "convergence_semiangle", "inner_collection_angle", "outer_collection_angle",
)  # fmt: skip
PROBE = ("source_size", "focal_spread", "C12", "C21", "C23", "C30")
USABLE = {"host": "WSe2", "dose": bc.log_uniform(1e4, 1e6)}
OPTIONS = {"likelihood": "network", "num_draws": 2000}

RECORDED = {
    "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 28.0,
    "inner_collection_angle": 60.0, "outer_collection_angle": 200.0,
}  # fmt: skip
SHARES = {"D_M": (0.10, 0.04), "V_X": (0.06, 0.025)}
REPEATS = 3  # of all images, in the longest run
NUM_LEARNED, NUM_HELD = 12, 3
FITTED = 8  # sessions that the correlation was chosen from


def with_shares(folder: Path, num_images: int) -> list[dict[str, float]]:
    """Write micrographs whose concentrations differ, and return these."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng, drawn = np.random.default_rng(5), {}
    for name, (mean, spread) in SHARES.items():
        w = mean * (1 - mean) / spread**2 - 1
        drawn[name] = rng.beta(mean * w, (1 - mean) * w, num_images)
    shares = [{n: float(v[k]) for n, v in drawn.items()} for k in range(num_images)]
    for k, own in enumerate(shares):
        if not (images / f"{k:03d}.npy").exists():
            known = RECORDED | {"dose": bc.log_uniform(1e4, 1e5)}
            prior = bc.reference_prior().given(known | {"abundance": own | {"X2_M": 0.0}})
            data = bc.simulate_micrograph(prior, seed=900, index=k, **SIZE)
            np.save(images / f"{k:03d}.npy", data.intensity.values)
    return shares


def measure_run(folder: Path, num_images: int) -> None:
    """Infer images in this process and print time and memory; for a process of its own."""
    images = sorted((folder / "images").iterdir())[:num_images]
    bc.load_model()
    before, began = time.process_time(), time.perf_counter()
    context = RECORDED | {"sampling": 0.2}
    out = folder / f"results_{num_images}"
    records = bc.infer_series(images, out, context, likelihood="network", progress=False)
    numbers = {
        "done": sum(r.status == "done" for r in records),
        "wall": time.perf_counter() - began,
        "cpu": time.process_time() - before,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "disk": sum(f.stat().st_size for f in out.iterdir()),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(numbers))


def copies(source: Path, folder: Path) -> Path:
    """Write every image of an archive several times."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "images").iterdir()):
        for k in range(REPEATS):
            (folder / "images" / f"{k}_{path.name}").write_bytes(path.read_bytes())
    return folder


def in_own_processes(folders: Sequence[Path], num_images: int) -> list[dict]:
    """What ``measure_run`` prints in new processes, one for each folder, that run side by side."""
    running = []
    for folder in folders:
        for file in (folder / f"results_{num_images}").glob("*"):
            file.unlink()
        command = [sys.executable, __file__, "--one", str(folder), str(num_images)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process of a run failed; its message stands above")
    return [json.loads(text.splitlines()[-1]) for text in printed]


def limit_of_machine(folder: Path, work: Path, num_images: int) -> float:
    """Ratio of one process to two that know nothing of each other, each with all images."""
    twins = [work / f"twin_{k}" for k in range(2)]
    for twin in twins:
        shutil.copytree(folder / "images", twin / "images", dirs_exist_ok=True)
    alone = in_own_processes(twins[:1], num_images)[0]["wall"]
    return 2 * alone / max(found["wall"] for found in in_own_processes(twins, num_images))


def archive(work: Path, sizes: Sequence[int]) -> dict:
    """Time and memory against the number of images, and the concentrations of the largest run."""
    folder = work / "archive"
    shares = with_shares(folder, max(sizes))
    runs = {n: in_own_processes([folder], n)[0] for n in sizes}
    repeated = copies(folder, work / "repeated")
    runs[REPEATS * max(sizes)] = in_own_processes([repeated], REPEATS * max(sizes))[0]
    began = time.perf_counter()
    summary = bc.summarise(folder / f"results_{max(sizes)}")
    seconds = time.perf_counter() - began
    found = {}
    for name in SHARES:
        row = summary.sel(defect_class=name)
        true = np.array([shares[int(str(i)[:3])][name] for i in row.image.values])
        columns = [f"{n}{s}" for n in ("mean", "spread", "pooled", "further")
                   for s in ("", "_90_low", "_90_high")]  # fmt: skip
        found[name] = {n: float(row[n]) for n in columns} | {
            "true_mean": true.mean(),
            "true_spread": true.std(ddof=1),
            **{
                f"own_{p}": float(((row[f"own_{p}_low"] <= true) & (true <= row[f"own_{p}_high"]))
                                  .mean())
                for p in (50, 90)
            },
        }  # fmt: skip
    return {"runs": runs, "concentrations": found, "summarise": seconds}


def dask_workers(work: Path, num_images: int) -> dict:
    """Time of one and of two workers of Dask on the same images, in turns."""
    from distributed import LocalCluster

    folder = work / "archive"
    with_shares(folder, num_images)
    images = sorted((folder / "images").iterdir())[:num_images]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    busy: dict[int, list[float]] = {1: [], 2: []}
    apart = []
    load = os.getloadavg()[0]
    for turn in range(2):
        for n in (1, 2):
            options = {"n_workers": n, "threads_per_worker": 1, "dashboard_address": None}
            with LocalCluster(**options) as cluster:
                out = work / f"workers_{n}_{turn}"
                for file in out.glob("*"):
                    file.unlink()
                address = cluster.scheduler_address
                context = RECORDED | {"sampling": 0.2}
                # the libraries are imported and the model is read before the time is taken
                warm = work / f"warm_{n}_{turn}"
                for file in warm.glob("*"):
                    file.unlink()
                given = {"likelihood": "network", "scheduler": address, "progress": False}
                bc.infer_series(images[: 2 * n], warm, context, **given)
                began = time.perf_counter()
                records = bc.infer_series(images, out, context, **given)
                wall = time.perf_counter() - began
                seconds[n].append(wall)
                busy[n].append(sum(r.seconds for r in records) / (n * wall))
        apart.append(limit_of_machine(folder, work, num_images))
    return {
        "seconds": seconds, "busy": busy, "apart": apart, "images": num_images, "load": load
    }  # fmt: skip


def session(seed: int) -> tuple[bc.Prior, dict[str, float]]:
    """Prior of the images of one session, and what they have in common."""
    drawn = bc.simulate_micrograph(bc.reference_prior().given(USABLE), seed=seed, **SIZE)
    truth = {n: float(drawn[n]) for n in (*INSTRUMENT, *PROBE)}
    given = bc.reference_prior().given(USABLE | {n: truth[n] for n in INSTRUMENT})
    nuisances = {**given.nuisances, **{n: truth[n] for n in PROBE}}
    return replace(given, nuisances=nuisances), truth


def simulate(folder: Path, prior: bc.Prior, seed: int, num_images: int) -> None:
    """Write images, and the truth of each in a folder beside them."""
    images, truths = folder / "images", folder / "truth"
    images.mkdir(parents=True, exist_ok=True)
    truths.mkdir(exist_ok=True)
    for k in range(num_images):
        path = images / f"{k:04d}.npy"
        if not path.exists():
            data = bc.simulate_micrograph(prior, seed=seed, index=k, **SIZE)
            bc.save(xr.DataTree(data), truths / f"{k:04d}.nc")
            np.save(path, data.intensity.values)


def learn(folder: Path, seed: int) -> dict:
    """Infer a session, learn its prior, and infer further images with and without it."""
    prior, truth = session(seed)
    simulate(folder, prior, seed, NUM_LEARNED + NUM_HELD)
    images = sorted((folder / "images").iterdir())
    records = bc.infer_series(
        images[:NUM_LEARNED], folder / "results", STATED, progress=False, **OPTIONS
    )
    learned = bc.session_prior(folder / "results")
    known = STATED | {n: truth[n] for n in INSTRUMENT}
    cases = {
        "reference": (STATED, None),
        "learned": (STATED, bc.load_model().with_prior(learned)),
        "truth": (known, None),
    }
    scores: dict[str, dict] = {}
    for name, (context, model) in cases.items():
        out = folder / f"held_{name}"
        for file in out.glob("*"):  # the learned prior may be another one now
            file.unlink()
        bc.infer_series(images[NUM_LEARNED:], out, context, model, progress=False, **OPTIONS)
        scores[name] = {n: score(folder, n, r, truth) for n, r in bc.open_series(out).items()}
    laws = {n: quantiles_of(learned, n) for n in INSTRUMENT}
    done = sum(r.status == "done" for r in records)
    independent = with_independent_errors(folder)
    return {
        "truth": truth, "done": done, "prior": laws, "held": scores, "independent": independent
    }  # fmt: skip


def with_independent_errors(folder: Path) -> dict[str, list[float]]:
    """Quantiles of what would be learned if the errors of images were independent."""
    learned = bc.session_prior(folder / "results", correlation=0.0)
    return {n: quantiles_of(learned, n) for n in INSTRUMENT}


def quantiles_of(prior: bc.Prior, name: str) -> list[float]:
    """Ninety-nine quantiles of a variable."""
    u = bc.tensors.torch.linspace(0.01, 0.99, 99, dtype=bc.tensors.torch.float64)
    return bc.distributions.quantile(prior.conditions[0][name], u).tolist()


def score(folder: Path, name: str, result: xr.DataTree, truth: dict[str, float]) -> dict:
    """Scores of the classes of an image in bits per site, and of the instrument."""
    with xr.open_dataset(folder / "truth" / name.replace(".npy", ".nc")) as data:
        compared = bc.compare(data.load(), result)
    scores: dict[str, object] = {"log_score": float(compared.log_score)}
    for variable in INSTRUMENT:
        if variable in result["posterior"]:
            draws = result["posterior"][variable].values.ravel().astype(float)
            scores[variable] = marks(draws, truth[variable], quantiles_of(REFERENCE, variable))
    return scores


REFERENCE = bc.reference_prior()


def marks(draws: np.ndarray, true: float, reference: Sequence[float]) -> list[float]:
    """Rank of the truth, continuous ranked probability score and width of 90 % in prior units."""
    z, true_z = (np.interp(v, reference, ndtri(np.linspace(0.01, 0.99, 99))) for v in (draws, true))
    z = np.sort(np.random.default_rng(0).choice(z, 1000))
    k = np.arange(1, len(z) + 1)
    crps = np.abs(z - true_z).mean() - ((2 * k - len(z) - 1) * z).sum() / len(z) ** 2
    rank = (z < true_z).mean() + 0.5 * (z == true_z).mean()
    return [float(rank), float(crps), float(np.diff(np.quantile(z, [0.05, 0.95]))[0])]


def sessions(work: Path, num: int) -> list[dict]:
    """Every session in turn."""
    found = []
    for k in range(num):
        kept = work / "sessions" / f"{k}.json"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(learn(work / "sessions" / str(k), k)))
        found.append(json.loads(kept.read_text()))
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of single images, which are in the record of the series."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def page(work: Path) -> str:
    """The text of what was measured."""
    parts = []
    for name, words in (
        ("archive", of_archive),
        ("workers", of_workers),
        ("sessions", of_sessions),
    ):
        file = work / f"{name}.json"
        if file.exists():
            parts.append(words(json.loads(file.read_text())))
    return "\n\n".join(parts)


def of_archive(found: dict) -> str:
    """Time, memory and concentrations."""
    rows = [
        [n, r["done"], f"{r['cpu']:.0f}", f"{r['cpu'] / int(n):.2f}", f"{r['wall']:.0f}",
         f"{r['load']:.1f}", f"{r['memory'] / 1e6:.0f}", f"{r['disk'] / 1e6:.0f}"]
        for n, r in found["runs"].items()
    ]  # fmt: skip
    head = ["images", "done", "CPU [s]", "CPU per image [s]", "wall [s]", "load", "peak [MB]",
            "disk [MB]"]  # fmt: skip
    text = f"""\
## Time and memory

Simulated micrographs of 128 x 128 pixels of 0.2 Å of WSe2:Ti (some 200 sites each), read by the
network with host, dopant, energy and angles stated, in one process with one thread. The load is
that of the machine, of two cores, which others used at the same time: the wall time shrinks with
it, the CPU time hardly. Peak is the largest resident memory of the process, most of which is the
libraries; the last row has every image {REPEATS} times.

{table(head, rows)}

## Concentrations of a series

The same images; dopants and single vacancies of each are drawn from Beta distributions.
`bayesctx.summarise` takes {found["summarise"]:.0f} s of them. In %, with 90 % intervals; "own" is
the share of images whose own interval holds the concentration of their crystal.

"""
    rows = []
    for name, c in found["concentrations"].items():
        spans = [
            f"{100 * c[n]:.2f} ({100 * c[n + '_90_low']:.2f} to {100 * c[n + '_90_high']:.2f})"
            for n in ("mean", "spread", "pooled")
        ]
        true = [f"{100 * c['true_mean']:.2f}", f"{100 * c['true_spread']:.2f}"]
        own = f"{100 * c['own_50']:.0f} and {100 * c['own_90']:.0f} %"
        rows.append([name, true[0], spans[0], spans[2], true[1], spans[1], own])
    head = ["class", "true mean", "mean", "pooled", "true spread", "spread", "own 50 and 90 %"]
    return text + table(head, rows)


def of_workers(found: dict) -> str:
    """Ratio of one to two workers."""
    one, two = (found["seconds"][n] for n in ("1", "2"))
    rows = [
        [
            k + 1, f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}", f"{found['apart'][k]:.2f}",
            f"{100 * found['busy']['2'][k]:.1f} %",
        ]
        for k, (a, b) in enumerate(zip(one, two, strict=True))
    ]  # fmt: skip
    return f"""\
## Workers of Dask

{found["images"]} of these images by `infer_series(..., scheduler=ADDRESS)`, the scheduler and its
workers of one thread each on two cores; the load before the first turn was {found["load"]:.1f}, of
programs that are not part of this. Limit is the ratio of one process to two that read all of these
images side by side and know nothing of each other or of Dask: what the cores share, caches and
memory, allows no more. Busy is the share of the time in which the two workers infer.

{table(["turn", "1 worker [s]", "2 workers [s]", "ratio", "limit", "busy"], rows)}"""


def of_sessions(found: list[dict]) -> str:
    """Coverage of the learned prior, and what it is worth to further images."""
    return f"""\
## The prior of a session

{len(found)} simulated sessions; in each beam energy, angles and probe (source size, focal spread,
aberrations) are the same in all images, while dopant, defects, dose, defocus and scan differ.
`session_prior` learns from {NUM_LEARNED} images of a session read by the network, of which only
host and pixel size are stated. Its default of the correlation between the errors of images, 0.6,
was chosen from the first {FITTED} sessions; the others were not looked at before. Images of a
session have the same probe, which the network does not infer, so that their errors are common:
with independent errors (correlation 0) the prior would be too narrow.

Where the true value is in the learned prior: root mean square of its normal score (1 if the prior
is as wide as it should be), share in the central intervals, and mean width of the 90 % interval
over that of the reference prior.

{table(COVERAGE, [row for name in INSTRUMENT for row in coverage(found, name)])}

{NUM_HELD} further images of each session, inferred under the reference prior, under the learned
one, and with the true energy and angles given. Means over images with standard errors over
sessions. The score of the instrument is the continuous ranked probability score in standard
deviations of the prior: less is better.

{table(GAIN, gains(found))}

The learned prior narrows the instrument in further images. The scores improve on average, each by
less than two standard errors of these few sessions. The errors of the prior are common to the
further image too, so that its intervals hold the truth less often than those under the reference
prior, which few effective draws make too narrow already. All of this is of the network; for
results of the simulator, which infers the probe, the same correlation is used and was not
measured."""


COVERAGE = ["variable", "sessions", "rms score", "in 50 %", "in 90 %", "width"]
GAIN = ["", "reference prior", "learned prior", "learned minus reference", "truth given"]


def coverage(found: list[dict], name: str) -> Iterator[list[object]]:
    """Rows of a variable: all sessions, those that nothing was chosen from, and without 0.6."""
    levels = np.linspace(0.01, 0.99, 99)
    reference = quantiles_of(REFERENCE, name)
    cases = (("all", found, "prior"), ("fresh", found[FITTED:], "prior"),
             ("all, correlation 0", found, "independent"))  # fmt: skip
    for label, part, key in cases:
        if part:
            rank = np.array([np.interp(s["truth"][name], s[key][name], levels) for s in part])
            width = [(s[key][name][94] - s[key][name][4]) for s in part]
            inside = [f"{(np.abs(rank - 0.5) <= p / 2).sum()} of {len(part)}" for p in (0.5, 0.9)]
            rms = np.sqrt(np.mean(ndtri(rank) ** 2))
            share = np.mean(width) / (reference[94] - reference[4])
            yield [name, f"{len(part)} {label}", f"{rms:.2f}", *inside, f"{share:.2f}"]


def gains(found: list[dict]) -> list[list[object]]:
    """Scores of further images, of all sessions."""

    def of(case: str, pick: object) -> np.ndarray:
        return np.array([
            np.mean([pick(image) for image in s["held"][case].values()]) if s["held"][case]
            else np.nan for s in found
        ])  # fmt: skip

    rows = []
    quantities = [("log score of the classes [bit per site]", lambda i: i["log_score"])]
    for name in INSTRUMENT:
        quantities.append((f"score of {name}", lambda i, n=name: i[n][1]))
    for name in INSTRUMENT:
        quantities.append((f"width of {name}", lambda i, n=name: i[n][2]))
    for label, pick in quantities:
        a, b = of("reference", pick), of("learned", pick)
        known = np.isfinite(a) & np.isfinite(b)
        cells = [mean_and_error(v[known]) for v in (a, b, b - a)]
        last = mean_and_error(of("truth", pick)[known]) if "classes" in label else "-"
        rows.append([label, *cells, last])
    for name in INSTRUMENT:
        cells = []
        for case in ("reference", "learned"):
            rank = np.array([i[name][0] for s in found for i in s["held"][case].values()])
            cells.append(f"{100 * np.mean(np.abs(rank - 0.5) <= 0.45):.0f} % of {len(rank)}")
        rows.append([f"90 % interval of {name} holds the truth", *cells, "-", "-"])
    return rows


def mean_and_error(values: np.ndarray) -> str:
    """Mean with its standard error."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="archive, workers, sessions (default: none)")
    parser.add_argument("--work", type=Path, default=Path("series-benchmark"), help="kept files")
    parser.add_argument("--num-images", type=int, default=100)
    parser.add_argument("--num-sessions", type=int, default=12)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with quiet():
        if arguments.one:
            measure_run(Path(arguments.one[0]), int(arguments.one[1]))
            return
        arguments.work.mkdir(parents=True, exist_ok=True)
        number = arguments.num_images
        measure = {
            "archive": lambda: archive(
                arguments.work, sorted({max(1, number // 10), max(1, number // 3), number})
            ),
            "workers": lambda: dask_workers(arguments.work, min(24, number)),
            "sessions": lambda: sessions(arguments.work, arguments.num_sessions),
        }
        for part in arguments.parts:
            (arguments.work / f"{part}.json").write_text(json.dumps(measure[part]()))
        write("series", "Series of micrographs", page(arguments.work), 0)


if __name__ == "__main__":
    main()
