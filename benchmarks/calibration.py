"""Calibration: entropy against log score, reliability, ranks and coverage."""

from __future__ import annotations

import argparse

import numpy as np
import xarray as xr
from report import FOLDER, table, write
from scipy.stats import kstest

import bayesctx as bc
from bayesctx.information import entropy
from bayesctx.plots import new_figure

CONTINUOUS = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)
SUBSETS = {
    "nothing": (),
    "host": ("host",),
    "beam energy": ("beam_energy",),
    "detector": ("inner_collection_angle", "outer_collection_angle"),
    "host, dopant": ("host", "dopant"),
    "all but the dopant": ("host", *CONTINUOUS),
    "all but the focus and dose": ("host", "dopant", *CONTINUOUS[:-2]),
    "everything": ("host", "dopant", *CONTINUOUS),
}
# a posterior is calibrated in groups defined by known variables only
GROUPS = {"everything": ("host", "dopant", "condition", "case"), "host": ("host",)}

INTRODUCTION = """\
{num} patches of `simulate(tmd_prior(), ..., seed={seed})` (the 576 cases, all nuisances) for the
classes, {runs} of `reference_prior()` for the continuous context; every patch is an image of its
own. The mean log score of a calibrated posterior is minus its mean entropy. In nats; standard
errors of the mean over the patches. With a finite number of patches the calibration error of a
perfect posterior is not zero: it is given for truths that are drawn from the posterior itself.

"""


GROUPED = """

![Reliability of every class](calibration.png)

Groups of patches that share a known variable: the worst group, the spread of all groups and of
noise alone, and the mean square of their differences in standard errors (1 for noise alone; for
cases from the median):

"""
RANKS = """

Ranks of the truth among the draws (simulation-based calibration) and joint coverage; p of a
Kolmogorov-Smirnov test against the uniform distribution, mean (0.5) and twelve variances (1; less:
too wide):

"""


def infer_classes(data: xr.Dataset, known: tuple[str, ...], model: bc.DefectModel) -> xr.Dataset:
    """Class probabilities of every patch, their entropy and log score in nats."""
    result = bc.infer(data.intensity, data[list(known)], model, num_draws=128)
    probabilities = result["class_posterior"].defect[:, 0]
    found = {
        "entropy": entropy(result).entropy[:, 0] * np.log(2),
        "log_score": bc.log_score(probabilities, data.defect),
    }
    return xr.Dataset({"probabilities": probabilities} | found)


def difference(scored: xr.Dataset) -> tuple[float, float]:
    """Mean and standard error of entropy plus log score: 0 if calibrated, < 0 if overconfident."""
    values = (scored.entropy + scored.log_score).values
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def error_of_a_perfect_one(probabilities: xr.DataArray, seed: int, num: int = 20) -> float:
    """Calibration error for truths drawn from the posterior itself: the sampling error."""
    rng = np.random.default_rng(seed)
    edges = probabilities.values.astype(float).cumsum(-1)
    truths = [(rng.random((len(edges), 1)) * edges[:, -1:] > edges).sum(-1) for _ in range(num)]
    return float(
        np.mean([bc.reliability(probabilities, t).expected_calibration_error for t in truths])
    )


def rows_of_subsets(data: xr.Dataset, scored: dict[str, xr.Dataset]) -> list[list[str]]:
    """Accuracy, entropy, log score and errors of calibration for every amount of known context."""
    rows = []
    for name, found in scored.items():
        bins = bc.reliability(found.probabilities, data.defect)
        classes = bc.class_reliability(found.probabilities, data.defect).expected_calibration_error
        shift, error = difference(found)
        rows.append([
            name, f"{100 * float(bins.accuracy_overall):.1f}", f"{float(found.entropy.mean()):.4f}",
            f"{float(found.log_score.mean()):.4f}", f"{shift:+.4f} ± {error:.4f}",
            f"{100 * float(bins.expected_calibration_error):.2f}",
            f"{100 * error_of_a_perfect_one(found.probabilities, seed=0):.2f}",
            f"{100 * float(classes.max()):.2f} ({classes.idxmax().item()})",
        ])  # fmt: skip
    return rows


def rows_of_groups(data: xr.Dataset, scored: dict[str, xr.Dataset]) -> list[list[str]]:
    """The worst groups of patches that share something known, and whether noise explains them."""
    rows = []
    for known, kinds in GROUPS.items():
        for kind in kinds:
            names, group = np.unique(data[kind].values.astype(str), return_inverse=True)
            parts = [
                difference(scored[known].isel(image=np.flatnonzero(group == g)))
                for g in range(len(names))
            ]
            means, errors = np.array(parts).T
            worst = np.abs(means / errors).argmax()
            # of the square of a normal variable the median is 0.455
            ratio = (
                np.median((means / errors) ** 2) / 0.455
                if kind == "case"
                else ((means / errors) ** 2).mean()
            )
            spread = f"{means.std():.3f}, {(errors**2).mean() ** 0.5:.3f}"
            extreme = f"{names[worst]}: {means[worst]:+.3f} ± {errors[worst]:.3f}"
            rows.append([known, kind, len(names), extreme, spread, f"{ratio:.2f}"])
    return rows


def rows_of_draws(model: bc.DefectModel, num_runs: int, seed: int) -> list[list[str]]:
    """Kolmogorov-Smirnov tests of ranks and coverage of the continuous context."""
    data = bc.simulate(model.prior, num_runs, seed=seed)
    rows = []
    for name in ("nothing", "host, dopant", "host, dopant, energy, detector"):
        known = {"nothing": (), "host, dopant": ("host", "dopant")}.get(
            name, ("host", "dopant", "beam_energy", *CONTINUOUS[2:4])
        )
        latent = [n for n in CONTINUOUS if n not in known]
        draws = bc.infer(data.intensity, data[list(known)], model, num_draws=8192)["posterior"]
        ranks = {v: bc.ranks(draws[v], data[v], seed=seed).values for v in latent}
        ranks["all (TARP)"] = bc.coverage(
            draws.to_dataset()[latent], data[latent], seed=seed
        ).values
        for variable, r in ranks.items():
            rows.append(
                [
                    name,
                    variable,
                    f"{kstest(r, 'uniform').pvalue:.3f}",
                    f"{r.mean():.3f}",
                    f"{12 * r.var():.3f}",
                ]
            )
    return rows


def draw(data: xr.Dataset, scored: dict[str, xr.Dataset]) -> None:
    """Reliability of every class with everything, the host and nothing known."""
    figure = new_figure((12, 4.3))
    for ax, name in zip(figure.subplots(1, 3), ("everything", "host", "nothing"), strict=True):
        bc.plot_class_reliability(
            bc.class_reliability(scored[name].probabilities, data.defect), ax=ax
        )
        ax.set_title(f"known: {name}\n{ax.get_title()}", fontsize="medium")
    figure.savefig(FOLDER / "calibration.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--num-patches", type=int, default=20_000, help="for the classes (default: 20000)"
    )
    parser.add_argument(
        "--num-runs", type=int, default=2000, help="for the continuous context (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--model", help="default: the reference model")
    arguments = parser.parse_args()
    model = bc.load_model(arguments.model)
    data = bc.simulate(bc.tmd_prior(), arguments.num_patches, seed=arguments.seed, progress=True)
    detector = data.inner_collection_angle.values.astype(int).astype(str)
    data["condition"] = (
        "image",
        [
            f"{e / 1e3:.0f} keV, {i} mrad"
            for e, i in zip(data.beam_energy.values, detector, strict=True)
        ],
    )
    data["case"] = (
        "image",
        [
            " ".join(c)
            for c in zip(*(data[n].values for n in ("host", "dopant", "condition")), strict=True)
        ],
    )
    cases = model.with_prior(bc.tmd_prior())
    scored = {name: infer_classes(data, known, cases) for name, known in SUBSETS.items()}
    draw(data, scored)
    header = [
        "known",
        "right (%)",
        "entropy",
        "log score",
        "entropy + log score",
        "calibration error (%)",
        "of a perfect one (%)",
        "of the worst class (%)",
    ]
    body = INTRODUCTION.format(
        num=arguments.num_patches, seed=arguments.seed, runs=arguments.num_runs
    )
    body += table(header, rows_of_subsets(data, scored))
    body += GROUPED
    body += table(
        ["known", "by", "groups", "worst", "spread, of noise", "chi² / groups"],
        rows_of_groups(data, scored),
    )
    body += RANKS
    rows = rows_of_draws(bc.load_model(arguments.model), arguments.num_runs, arguments.seed + 1)
    body += table(["known", "variable", "p", "mean rank", "12 x variance"], rows)
    write("calibration", "Calibration of the reference model", body, arguments.seed)


if __name__ == "__main__":
    main()
