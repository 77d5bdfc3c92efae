"""The plain setting of the paper: its prior, and hypotheses of the exact and neural tables."""

import numpy as np
import pytest
import torch

import bayesctx as bc
from bayesctx.model import Materials
from bayesctx.model.table import outcomes_of_hypotheses
from bayesctx.nuisances import NUISANCES

FIVE = {"M", "D_M", "X2", "V_X", "V_X2"}


def test_the_paper_has_576_cases_and_few_nuisances():
    prior = bc.paper_prior()
    assert len(prior.conditions) * sum(len(prior.dopants[h]) for h in prior.hosts) == 576
    drawn = {n for n, v in prior.nuisances.items() if not isinstance(v, float)}
    assert drawn == {"rotation", "offset_x", "offset_y", "source_size", "gain"}
    assert set(prior.nuisances) <= set(NUISANCES)
    assert bc.Prior.from_dict(prior.to_dict()) == prior


def test_its_patches_are_five_classes_in_perfect_crystals():
    data = bc.simulate(bc.paper_prior().given({"dose": 1e4}), 200, seed=0)
    assert set(np.unique(data.defect)) == FIVE
    for name in ("background", "dark_level", "line_jitter", "disorder", "tilt", "C12"):
        assert not data[name].any()
    perfect = data.concentration.sel(defect_class=["M", "X2", "hollow"])
    np.testing.assert_allclose(perfect, 1, atol=1e-6)


def test_the_exact_model_and_the_network_take_it():
    prior = bc.paper_prior()
    data = bc.simulate(prior.given({"dose": 3e4}), 2, seed=1)
    known = ["host", "dopant", *prior.conditions[0]]
    neural = bc.load_model().with_prior(prior)
    for model in (bc.ExactModel(prior, num_draws=64), neural):
        found = bc.infer(data.intensity, data[known], model, num_draws=1)["class_posterior"]
        others = [d for d in bc.DEFECTS if d not in FIVE]
        assert float(found.defect.sel(defect_class=others).max()) == 0
        scores = bc.log_score(found.defect[:, 0], data.defect)
        # guessing among five
        assert float(scores.mean()) > np.log(0.2)


@pytest.mark.parametrize("kind", ["neural", "exact"])
@torch.no_grad()
def test_hypotheses_add_up_to_outcomes(kind):
    prior = bc.paper_prior().given({"host": "MoS2", "dose": 3e4, "beam_energy": 80e3})
    data = bc.simulate(prior, 1, seed=2)
    model = bc.load_model() if kind == "neural" else bc.ExactModel(prior, num_draws=32)
    context = {n: torch.tensor([[float(data[n][0])]]) for n in prior.conditions[0]}
    materials = Materials.of(prior).map(lambda f: f[None])
    table = model.tabulate(context, materials)
    features = model.encode(torch.from_numpy(data.intensity.values))[0][:, None]
    by_outcome, peak = table.density(features)
    by_hypothesis, own_peak = table.density(features, by_hypothesis=True)
    outcomes = outcomes_of_hypotheses(materials.dopant.shape[-1])
    assert by_hypothesis.shape[-1] == len(outcomes)
    added = torch.zeros_like(by_outcome).index_add_(-1, outcomes, by_hypothesis)
    scale = (own_peak - peak).exp()[..., None, None, None]
    # sums of at most two terms in single precision
    torch.testing.assert_close(added * scale, by_outcome, rtol=1e-4, atol=1e-6)
