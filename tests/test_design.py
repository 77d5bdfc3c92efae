"""Expected information: look-ups by the posterior, further recordings by nested Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import bayesctx as bc
from bayesctx.information import class_given_recordings, expected_information_gain
from bayesctx.information.state import context_of

pytestmark = pytest.mark.filterwarnings("ignore:the posterior rests on")
KNOWN = [name for name in bc.CONTEXT if name != "sampling"]
RING = {"inner_collection_angle": 40.0, "outer_collection_angle": 80.0}
FULL = {
    "host": "MoS2", "dopant": "W", "beam_energy": 80e3, "convergence_semiangle": 26.0,
    "inner_collection_angle": 80.0, "outer_collection_angle": 200.0, "defocus": 5.0, "dose": 2e4,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return bc.load_model()


@pytest.fixture(scope="module")
def patches():
    return bc.simulate(bc.reference_prior().given(FULL), 8, seed=11)


@pytest.fixture(scope="module")
def unsure(patches):
    """The patch whose class is least known, with everything known of it."""
    results = bc.infer(patches.intensity, FULL)
    at = int(bc.entropy(results).entropy.values[:, 0].argmax())
    return patches.isel(image=[at])


def density(model, features, context):
    """Density of features under every class by the Pyro program, shape (recording, class)."""
    names = {"host": list(bc.HOSTS), "dopant": list(bc.crystal.METALS)}
    host, dopant = (torch.tensor(names[n].index(context[n])) for n in names)
    rest = {n: torch.tensor(v) for n, v in context.items() if n not in names}
    law = model.contrast_given(torch.arange(len(bc.DEFECTS)), host, dopant, rest)
    return law.log_prob(features[:, None]).double()


def entropy(p):
    return float(-(p * np.log2(p, where=p > 0, out=np.zeros_like(p))).sum())


@torch.no_grad()
def test_a_recording_agrees_with_the_program_where_everything_is_known(model, unsure):
    result = bc.infer(unsure.intensity, FULL)
    found = expected_information_gain(result, [RING], num_outcomes=4000, seed=1)
    first = density(model, model.encode(torch.from_numpy(unsure.intensity.values))[0], FULL)[0]
    prior, second = first.softmax(0), FULL | RING
    torch.manual_seed(0)
    true = torch.multinomial(prior, 4000, replacement=True)
    host, dopant = (torch.tensor(list(n).index(FULL[k])) for k, n in
                    (("host", bc.HOSTS), ("dopant", bc.crystal.METALS)))  # fmt: skip
    rest = {n: torch.tensor(v) for n, v in second.items() if n not in ("host", "dopant")}
    features = model.contrast_given(true, host, dopant, rest).sample()
    after = (density(model, features, second) + first).log_softmax(1)
    gain = (after.gather(1, true[:, None])[:, 0] - prior[true].log()) / np.log(2)
    wanted, error = float(gain.mean()), float(gain.std()) / len(gain) ** 0.5
    # four standard errors of both, and the defensive share of the prior
    assert float(found.information[0]) == pytest.approx(
        wanted, abs=4 * np.hypot(error, float(found.error[0])) + 0.02
    )
    assert wanted > 0.1


@torch.no_grad()
def test_classes_given_two_recordings_are_a_product_where_everything_is_known(model, unsure):
    result = bc.infer(unsure.intensity, FULL)
    same = replace(bc.reference_prior().given(FULL | RING), defects=(unsure.defect.item(),))
    other = bc.simulate(same, 1, seed=12).intensity
    found = class_given_recordings(result, [(RING, other[0])])
    features = [model.encode(torch.from_numpy(i.values))[0] for i in (unsure.intensity, other)]
    joint = density(model, features[0], FULL)[0] + density(model, features[1], FULL | RING)[0]
    # in single precision, with terms left out whose share was below 1e-7
    np.testing.assert_allclose(found, joint.softmax(0), atol=1e-4)
    assert float(found.sum()) == pytest.approx(1)


def test_host_and_dopant_are_looked_up_by_the_enumerated_posterior(unsure):
    known = {n: v for n, v in FULL.items() if n not in ("host", "dopant")}
    result = bc.infer(unsure.intensity, known)
    bits = expected_information_gain(result, ["host", "dopant"])
    posterior = result["class_posterior"].to_dataset()
    before = bc.entropy(result).entropy.item()
    for name in ("host", "dopant"):
        shares = posterior[name].values.ravel()
        after = 0.0
        for value, share in zip(posterior[f"{name}_class"].values, shares, strict=True):
            if share > 1e-6:
                given = bc.infer(unsure.intensity, known | {name: str(value)})
                after += share * bc.entropy(given).entropy.item()
        own = bits.sel(candidate=name)
        # the continuous context is known, so that nothing is drawn
        assert float(own.information) == pytest.approx(before - after, abs=1e-3)
        assert float(own.error) == 0


def test_a_continuous_variable_is_looked_up_at_its_values(patches, model):
    """Three beam energies: the posterior at each by ``infer``, their shares by its draws."""
    prior = bc.tmd_prior().given({"host": "MoS2", "dopant": "W", "dose": 2e4})
    own = model.with_prior(prior)
    data = bc.simulate(prior, 6, seed=2)
    results = bc.infer(data.intensity, {"dose": 2e4}, own, num_draws=4000)
    at = int(bc.entropy(results).entropy.values[:, 0].argmax())
    image = data.intensity[[at]]
    result = bc.infer(image, {"dose": 2e4}, own, num_draws=4000)
    bits = expected_information_gain(result, ["beam_energy"], own, num_draws=2048)
    drawn = result["posterior"].beam_energy.values.ravel()
    after, total = 0.0, np.zeros(len(bc.DEFECTS))
    for energy, count in zip(*np.unique(drawn, return_counts=True), strict=True):
        given = bc.infer(image, {"dose": 2e4, "beam_energy": float(energy)}, own, num_draws=4000)
        p = given["class_posterior"].defect.values.ravel()
        after += count / len(drawn) * entropy(p)
        total += count / len(drawn) * p
    # class probabilities are settled to 0.007, which is up to 0.03 bits of an entropy
    assert float(bits.information[0]) == pytest.approx(entropy(total) - after, abs=0.04)


def test_information_is_between_nothing_and_the_entropy(unsure):
    known = {n: v for n, v in FULL.items() if n not in ("dopant", "dose", "defocus")}
    result = bc.infer(unsure.intensity, known)
    candidates = ["dopant", "dose", "defocus", RING, {"beam_energy": 200e3}]
    bits = expected_information_gain(result, candidates, num_draws=256)
    assert bits.kind.sel(candidate="dose").item() == "look up"
    assert bits.kind.sel(candidate="beam_energy 200000").item() == "record"
    assert (np.diff(bits.information) <= 0).all()
    assert (bits.information > -4 * bits.error - 1e-6).all()
    assert (bits.information < bc.entropy(result).entropy.item() + 4 * bits.error).all()
    again = expected_information_gain(result, candidates, num_draws=256)
    assert again.identical(bits)


def test_the_context_of_a_result_is_read_back(patches):
    image = patches.intensity[[0]]
    given = {"host": ["MoS2", "WSe2"], "dopant": None, "dose": bc.log_uniform(1e4, 1e5),
             "beam_energy": 80e3, "abundance": {"Y_X": 0.0}}  # fmt: skip
    found = context_of(bc.infer(image, given, num_draws=32))
    assert found["host"] == ["MoS2", "WSe2"]
    assert found["dopant"] is None
    assert found["beam_energy"] == 80e3
    assert found["abundance"] == {"Y_X": 0.0}
    assert bc.reference_prior().given(found) == bc.reference_prior().given(given)


def test_errors(patches, unsure, model):
    result = bc.infer(unsure.intensity, FULL)
    several = bc.infer(patches.intensity, FULL)
    with pytest.raises(ValueError, match="the result of one patch was expected, got 8 sites"):
        expected_information_gain(several, [RING])
    assert expected_information_gain(
        several.isel(image=0, missing_dims="ignore"), [RING]
    ).candidate.size
    with pytest.raises(ValueError, match="not known were expected as candidates, got dose, which"):
        expected_information_gain(result, ["dose"])
    with pytest.raises(ValueError, match="a variable among host, .* got 'gain'"):
        expected_information_gain(result, ["gain"])
    with pytest.raises(ValueError, match="a list of candidates was expected, got 'dose'"):
        expected_information_gain(result, "dose")
    with pytest.raises(ValueError, match=r"beam_energy \[eV\] from 40000 to 300000 was expected"):
        expected_information_gain(result, [{"beam_energy": 80.0}])
    with pytest.raises(ValueError, match="settings among beam_energy, .* got 'host'"):
        expected_information_gain(result, [{"host": 1.0}])
    with pytest.raises(ValueError, match="a detector with convergence_semiangle <= inner"):
        expected_information_gain(result, [{"inner_collection_angle": 25.0}])
    with pytest.raises(ValueError, match="one setting or more was expected of a recording"):
        expected_information_gain(result, [{}])
    with pytest.raises(ValueError, match="the DefectModel of the result was expected"):
        expected_information_gain(result, [RING], bc.ExactModel())
    with pytest.raises(ValueError, match="a target among class, species, .* got 'whole'"):
        expected_information_gain(result, [RING], target="whole")
    with pytest.raises(ValueError, match="a patch of 32 x 32 pixels was expected of a recording"):
        class_given_recordings(result, [(RING, np.ones((8, 8)))])
