"""The setting of the paper: exact and neural posteriors of plainly simulated columns."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from report import MODELS, table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.defects import HYPOTHESES, SPECIES
from bayesctx.exact import Crystal, evidence
from bayesctx.inference.outcomes import by_outcome, dopant_given_host, outcome_labels
from bayesctx.model import NUM_UNDOPED, Materials
from bayesctx.model.table import UNDOPED_HYPOTHESES
from bayesctx.prior import CONTINUOUS

TARGETS = ("class", "class_host", "species_host", "species_host_dopant")
CONTEXTS = {
    "nothing": (),
    "host and dopant": ("host", "dopant"),
    "probe and detector": ("beam_energy", "inner_collection_angle", "outer_collection_angle"),
    "everything": (
        "host", "dopant", "beam_energy", "inner_collection_angle", "outer_collection_angle",
    ),
}  # fmt: skip
ALWAYS = ("convergence_semiangle", "defocus", "dose")
FINISHED = Path(__file__).parents[1] / "runs"  # doses: a core takes minutes for each
AT_ONCE = 16  # patches that share their templates
PLAIN = [k for k, s in enumerate(SPECIES) if s.defect in ("M", "X2", "V_X", "V_X2")]
DOPED = next(k for k, s in enumerate(SPECIES) if s.holds_dopant)
CLASSES = ("M", "X2", "V_X", "V_X2")

INTRODUCTION = """\
{num} patches of `paper_prior()` at each dose: the 96 materials under the 6 conditions, one column
of a perfect crystal, M, D_M, X2, V_X or V_X2 with equal probabilities; rotation, offset, source
size and gain are unknown, everything else is held. Dose, convergence and defocus are always known.

- Exact: the likelihood of the simulator, {draws} draws of the nuisances for every column and mode.
- `limit.safetensors`: trained on `limit_prior()`, the same simulation with thirteen classes and two
  more nuisances (film and dark level), at 1e4, 1e5 and 1e6 e/Å². It knows less of these images than
  could be known: it expects the two nuisances.
- shipped: the reference model, trained on all nuisances (aberrations, tilt, defects beside the site
  and more), none of which these images have. It is not comparable with a network that was trained
  for this setting; no weights of this package were.

In bits; errors by the bootstrap over the patches. Sure: the mean probability of the most probable
class, which for an exact posterior estimates its accuracy with less noise. Removed: the share of
the entropy (in brackets of minus the log score) that the context removes, with everything known; a
dash where less than 0.01 bits are there to remove.
"""

CROSSINGS = """\
Doses at which 98 % are right (exact: sure), and at which the context removes 94 % of the entropy of
species, host and dopant, interpolated over the logarithm:

"""


def exact(data: xr.Dataset, num_draws: int, seed: int) -> np.ndarray:
    """Log evidence of all cases, (patch, condition, host, column), cached in a file."""
    dose = float(data.dose[0])
    file = FINISHED / f"paper-{seed}-{data.sizes['image']}-{dose:.0f}-{num_draws}.npy"
    if file.exists():
        return np.load(file)
    model = bc.ExactModel(bc.paper_prior(), num_draws=num_draws)
    prior, materials = model.prior, Materials.of(model.prior)
    crystals = [
        Crystal(prior, int(h), d.tolist(),
                {n: dose if n == "dose" else float(c[n]) for n in CONTINUOUS})
        for c in prior.conditions
        for h, d in zip(materials.host, materials.dopant, strict=True)
    ]  # fmt: skip
    num_dopants = materials.dopant.shape[1]
    # mirror images have the same evidence: one column of each hypothesis
    plain = [next(k for k in PLAIN if SPECIES[k].defect == c) for c in CLASSES]
    columns = torch.tensor(plain + [DOPED + len(SPECIES) * j for j in range(num_dopants)])
    parts = [
        evidence(crystals, columns, p, model.box, num_draws=num_draws, seed=seed).log_evidence
        for p in tqdm(torch.from_numpy(data.intensity.values).split(AT_ONCE))
    ]
    found = torch.cat(parts).unflatten(1, (len(prior.conditions), -1)).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, found)
    return found


def exact_result(log_evidence: np.ndarray, data: xr.Dataset, known: tuple[str, ...]) -> xr.DataTree:
    """The exact posterior as a result of ``infer``, given a part of the context."""
    prior, num = bc.paper_prior(), len(log_evidence)
    materials = Materials.of(prior).map(lambda f: f[None].expand(num, *f.shape))
    condition = np.ones((num, len(prior.conditions)))
    for name in set(known) & set(CONTINUOUS):
        values = np.array([float(c[name]) for c in prior.conditions], np.float32)
        condition *= values == data[name].values[:, None].astype(np.float32)
    names = {"host": list(bc.HOSTS), "dopant": list(bc.crystal.METALS)}
    index = {n: torch.tensor([v.index(x) for x in data[n].values]) for n, v in names.items()}
    host_weight, dopant_weight = materials.host_weight.clone(), materials.dopant_weight.clone()
    if "host" in known:
        host_weight *= materials.host == index["host"][:, None]
    if "dopant" in known:
        dopant_weight *= materials.dopant == index["dopant"][:, None, None]
        host_weight *= dopant_weight.sum(-1) > 0
        dopant_weight /= dopant_weight.sum(-1, keepdim=True).clamp(min=1e-30)
    weight = torch.cat([torch.ones(num, host_weight.shape[1], len(CLASSES)), dopant_weight], -1)
    weight = weight[:, None] * host_weight[:, None, :, None]
    weight = weight * torch.from_numpy(condition)[:, :, None, None]
    joint = torch.from_numpy(log_evidence).double() + weight.double().log()
    share = joint.flatten(1).softmax(1).view(joint.shape).sum(1)
    every = torch.zeros(num, share.shape[1], NUM_UNDOPED + share.shape[2] - len(CLASSES))
    for k, name in enumerate(CLASSES):
        place = next(i for i, h in enumerate(UNDOPED_HYPOTHESES) if HYPOTHESES[h].defect == name)
        every[..., place] = share[..., k]
    every[..., NUM_UNDOPED:] = share[..., len(CLASSES) :]
    own = Materials(materials.host, materials.dopant, host_weight, dopant_weight)
    labels = {n: ("outcome", v) for n, v in outcome_labels().items()}
    outcome = ("image", "patch", "outcome"), by_outcome(own, every)[:, None]
    before = ("image", "host_class", "dopant_class"), dopant_given_host(own)
    return xr.DataTree.from_dict({
        "class_posterior": xr.Dataset({"outcome": outcome}, labels),
        "constant_data": xr.Dataset({"dopant_given_host": before}),
    })  # fmt: skip


def neural_result(model: bc.DefectModel, data: xr.Dataset, known: tuple[str, ...]) -> xr.DataTree:
    """The neural posterior given a part of the context."""
    return bc.infer(data.intensity, data[[*ALWAYS, *known]], model, num_draws=128)


def sure(result: xr.DataTree) -> float:
    """Mean probability of the most probable class."""
    outcome = result["class_posterior"].outcome
    return float(outcome.groupby("outcome_class").sum().max("outcome_class").mean())


def removed_from(bits: xr.Dataset) -> str:
    """Share of the entropy of a target that the context removes, in percent."""
    if float(bits.entropy.sel(known="nothing")) < 0.01:
        return "-"
    own = bits.sel(known="everything")
    share, error, score = (
        100 * float(own[n])
        for n in ("entropy_removed", "entropy_removed_error", "log_score_removed")
    )
    return f"{share:.1f} ± {error:.1f} ({score:.1f})"


def crossing(doses: list[float], values: list[float], wanted: float) -> str:
    """Dose at which a value is reached, by interpolation over the logarithm."""
    if max(values) < wanted:
        return f"not up to {doses[-1]:.0e}"
    if values[0] >= wanted:
        return f"below {doses[0]:.0e}"
    k = next(i for i, v in enumerate(values) if v >= wanted)
    part = (wanted - values[k - 1]) / (values[k] - values[k - 1])
    return f"{10 ** np.interp(part, [0, 1], np.log10(doses[k - 1 : k + 1])):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, default=64, help="per dose (default: 64)")
    parser.add_argument("--num-draws", type=int, default=128, help="of the exact model")
    parser.add_argument("--seed", type=int, default=8300)
    arguments = parser.parse_args()
    start, prior, seed = time.perf_counter(), bc.paper_prior(), arguments.seed
    limit = bc.load_model(MODELS / "limit.safetensors").with_prior(prior)
    networks = {"limit.safetensors": limit, "shipped": bc.load_model().with_prior(prior)}
    scores, removed, curves = [], [], {}
    for dose in prior.conditions[0]["dose"]:
        data = bc.simulate(prior.given({"dose": dose}), arguments.num_patches, seed=seed)
        log_evidence = exact(data, arguments.num_draws, seed)
        found = {"exact": {c: exact_result(log_evidence, data, k) for c, k in CONTEXTS.items()}}
        for name, model in networks.items():
            if dose >= model.domains["dose"][0] * 0.99:
                found[name] = {c: neural_result(model, data, k) for c, k in CONTEXTS.items()}
        for name, results in found.items():
            bits = bc.measure_information(results, data, targets=TARGETS, seed=seed)
            for context, result in results.items():
                own = bits.sel(known=context, target="class")
                scores.append([
                    f"{dose:.0e}", name, context,
                    f"{100 * float(own.accuracy):.1f} ± {100 * float(own.accuracy_error):.1f}",
                    f"{100 * sure(result):.1f}",
                    f"{float(own.entropy):.3f} ± {float(own.entropy_error):.3f}",
                    f"{float(own.log_score):.3f} ± {float(own.log_score_error):.3f}",
                ])  # fmt: skip
                # of an exact posterior the less noisy estimate of the accuracy
                right = sure(result) if name == "exact" else float(own.accuracy)
                curves.setdefault((name, context), []).append((dose, right))
            removed.append(
                [f"{dose:.0e}", name, *(removed_from(bits.sel(target=t)) for t in TARGETS)]
            )
            own = bits.sel(known="everything")
            curves.setdefault((name, "removed"), []).append(
                (dose, float(own.entropy_removed.sel(target="species_host_dopant")))
            )
    body = INTRODUCTION.format(num=arguments.num_patches, draws=arguments.num_draws) + "\n"
    header = ["dose (e/Å²)", "model", "known", "right (%)", "sure (%)", "entropy", "log score"]
    body += table(header, scores) + "\n\nRemoved by the context (%):\n\n"
    body += table(["dose (e/Å²)", "model", *TARGETS], removed) + "\n\n"
    body += CROSSINGS
    rows = []
    for (name, context), points in curves.items():
        doses, values = map(list, zip(*points, strict=True))
        wanted = 0.94 if context == "removed" else 0.98
        rows.append([name, context, crossing(doses, values, wanted)])
    body += table(["model", "known, or 94 % removed", "dose (e/Å²)"], rows)
    body += f"\n\nAll of it in {time.perf_counter() - start:.0f} s."
    write("paper", "The setting of the paper", body, seed)


if __name__ == "__main__":
    main()
