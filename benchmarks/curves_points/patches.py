"""Patches by dose, sampling and source size: exact posterior and networks."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial

import numpy as np
import torch
import xarray as xr
from report import MODELS
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import SPECIES
from bayesctx.exact import Crystal, evidence
from bayesctx.exact.exact_model import columns_of_outcomes, mean_of_alternatives
from bayesctx.model import add_alternatives, class_members, outcome_classes
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import BLOCK

from .scoring import MEASURES, Finished, Points, score

DOSE, STEP, WIDTH = 1e5, 0.25, 8.0  # e/Å², and Å of a pixel and of a patch, where they do not vary
TRAINED = (1e4, 1e5, 1e6)  # doses of limit.safetensors, whose patches have pixels of STEP
NUM_DRAWS = 128  # of every column and mode
EXACT, TOLD, LIMIT, SHIPPED = "exact", "exact, source known", "network of this prior", "shipped"
AGAIN = "exact, other draws"  # tells the Monte Carlo error of the exact reading


@dataclass(frozen=True)
class Setting:
    """How patches are recorded; without a source size that of the prior, which is unknown."""

    dose: float = DOSE
    sampling: float = STEP
    source: float | None = None

    def prior(self) -> bc.Prior:
        """``limit_prior()`` of this setting."""
        prior = bc.limit_prior()
        held = {"scan_step": self.sampling}
        if self.source is not None:
            held["source_size"] = self.source
        return replace(
            prior,
            conditions=tuple(dict(c) | {"dose": self.dose} for c in prior.conditions),
            nuisances=dict(prior.nuisances) | held,
            sampling=self.sampling,
            num_pixels=round(WIDTH / self.sampling),
        )


@lru_cache(maxsize=1)
def draw(setting: Setting, case: int, each: int, seed: int) -> xr.Dataset:
    """Patches of one of the 576 cases; its random numbers are those of every setting."""
    prior = setting.prior()
    host = prior.hosts[case % len(prior.hosts)]
    # a host takes part in conditions of different energies and detectors
    turn = case + 3 * (case // len(prior.hosts))
    condition = prior.conditions[turn % len(prior.conditions)]
    names = ("beam_energy", "inner_collection_angle", "outer_collection_angle")
    dopants = prior.dopants[host]
    known = {n: condition[n] for n in names}
    known |= {"host": host, "dopant": dopants[3 * case % len(dopants)]}
    return bc.simulate(prior.given(known), each, seed=seed, start=case * BLOCK)


def exact(prior: bc.Prior, data: xr.Dataset, seed: int) -> tuple[torch.Tensor, float]:
    """Class probabilities of patches of one case, which is known, and least effective draws."""
    context = {n: float(data[n][0]) for n in CONTINUOUS}
    host, dopant = list(bc.HOSTS).index(data.host[0]), bc.crystal.METALS.index(data.dopant[0])
    found = evidence(
        [Crystal(prior, host, [dopant], context)],
        columns_of_outcomes(1),
        torch.from_numpy(data.intensity.values),
        bc.ExactModel(prior).box,
        num_draws=NUM_DRAWS,
        seed=seed,
    )
    by_outcome = add_alternatives(
        found.log_evidence[:, 0], class_members(SPECIES), mean_of_alternatives
    )
    by_class = torch.zeros(len(by_outcome), len(bc.DEFECTS)).double()
    by_class.index_add_(1, outcome_classes(1), by_outcome.double().softmax(-1))
    best = found.log_evidence[:, 0].argmax(1, keepdim=True)
    return by_class, float(found.ess[:, 0].gather(1, best).min())


@cache
def network_of(reading: str) -> bc.DefectModel:
    """The weights of a network."""
    return bc.load_model(MODELS / "limit.safetensors") if reading == LIMIT else bc.load_model()


@cache
def network_at(reading: str, dose: float) -> bc.DefectModel:
    """A network under the prior of a dose, and of its own pixels."""
    return network_of(reading).with_prior(Setting(dose).prior())


def neural(data: xr.Dataset, reading: str, dose: float) -> torch.Tensor:
    """Class probabilities of patches by a network that knows the context."""
    known = data[["host", "dopant", "sampling", *CONTINUOUS]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = bc.infer(data.intensity, known, network_at(reading, dose))
    return torch.from_numpy(result["class_posterior"].defect.values.reshape(-1, len(bc.DEFECTS)))


def read_patches(
    setting: Setting, reading: str, case: int, *, each: int, seed: int
) -> dict[str, object]:
    """Means over the patches of a case, with the time and the least effective draws."""
    data, start, least = draw(setting, case, each, seed), time.perf_counter(), None
    if reading in (EXACT, TOLD, AGAIN):
        prior = (setting if reading == TOLD else replace(setting, source=None)).prior()
        probability, least = exact(prior, data, seed + (reading == AGAIN))
    else:
        probability = neural(data, reading, setting.dose)
    seconds = time.perf_counter() - start
    truth = torch.tensor([bc.DEFECTS.index(d) for d in data.defect.values])
    means = score(probability, truth).mean(-1)
    found = dict(zip(MEASURES, means.tolist(), strict=True))
    return found | {"seconds": seconds, "effective draws": least}


def plans(
    doses: Sequence[float], samplings: Sequence[float], sources: Sequence[float]
) -> dict[str, dict[tuple[str, float], Setting]]:
    """Settings by curve, and by reading and abscissa."""
    dose = {
        (r, d): Setting(dose=d) for d in doses for r in (EXACT, SHIPPED, *[LIMIT] * (d in TRAINED))
    }
    sampling = {
        (r, s): Setting(sampling=s)
        for s in samplings
        for r in (EXACT, SHIPPED, *[LIMIT] * (s == STEP))
    }
    source = {(r, s): Setting(source=s) for s in sources for r in (EXACT, TOLD, LIMIT, SHIPPED)}
    again = {(AGAIN, d): Setting(dose=d) for d in (1e4, 1e5)}
    return {"dose": dose, "sampling": sampling, "source": source, "again": again}


def curves_of_patches(
    finished: Finished,
    planned: dict[str, dict[tuple[str, float], Setting]],
    *,
    num_cases: int,
    each: int,
    seed: int,
) -> tuple[dict[str, Points], float]:
    """Points of the curves of patches, and the least effective draws of the exact model."""
    points = {name: {key: [] for key in plan} for name, plan in planned.items()}
    tasks = [(name, key, s) for name, plan in planned.items() for key, s in plan.items()]
    least = np.inf
    # case by case, so that a part of a run can be used
    for case in tqdm(range(num_cases), unit="case"):
        for name, (reading, x), setting in tasks:
            task = {"kind": "patches", "reading": reading, "case": case, "each": each}
            work = partial(read_patches, setting, reading, case, each=each, seed=seed)
            found = finished.get(task | {"seed": seed} | asdict(setting), work)
            points[name][reading, x].append([found[m] for m in MEASURES])
            least = min(least, found["effective draws"] or np.inf)
    arrays = {n: {k: np.array(v).T for k, v in own.items()} for n, own in points.items()}
    return arrays, least
