"""Evidence of all pixels against what is claimed of a micrograph."""

import math
import warnings
from dataclasses import replace

import crystals
import numpy as np
import pytest
import torch
from crystals import noisy_crystal

from bayesctx import log_uniform
from bayesctx.inference.candidates import Lattices
from bayesctx.inference.claims import (
    CLAIMS,
    DOSE_SPREAD,
    PIXEL_LIMIT,
    SCREENED,
    conflict_by_pixels,
    warn_of_claims,
    weigh_lattices,
)
from bayesctx.inference.detectors import Rings
from bayesctx.prior import reference_prior
from bayesctx.scan import Candidate, Coordinates, Weight, search, weigh_scan
from bayesctx.scan.windows import crop
from bayesctx.scan.world import begin

KNOWN = {
    "host": "WSe2",
    "beam_energy": 200e3,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": torch.distributions.Uniform(150.0, 250.0),
    "dose": 1e5,
    "sampling": 0.2,
    "dopant": None,
}
RINGS = Rings(KNOWN, (KNOWN,))
BEST = {"defocus": 3.0}  # of the given context
PRIOR = reference_prior()


def weigh_as(values, seen):
    """Weights by the names that are left, which are remembered."""

    def weigh(rings, *near):
        seen.append(frozenset(rings.shared))
        assert near[0].values == BEST
        assert list(rings.own) == [rings.shared]
        return values(rings.shared)

    return weigh


def test_nothing_is_weighed_where_nothing_is_claimed():
    unclaimed = {"sampling": 0.2, "dopant": None, "abundance": {"Y_X": 0.0}}
    assert (
        conflict_by_pixels(
            Rings(unclaimed, (unclaimed,)),
            Weight(0.0, 0.0),
            weigh_as(lambda c: 1 / 0, []),
            PRIOR,
        )
        == {}
    )


def test_all_claims_are_left_open_together_first():
    seen = []
    weigh = weigh_as(lambda context: Weight(90.0, -30.0), seen)
    found = conflict_by_pixels(RINGS, Weight(100.0, -10.0, BEST, 1e5), weigh, PRIOR)
    assert found.pop("dose") < 0
    assert found == {"context": -10.0}
    assert seen == [frozenset({"dose", "sampling", "dopant"})]


def test_each_claim_is_weighed_where_all_together_are_contradicted():
    seen = []

    def values(context):
        density = 100.0 if "beam_energy" in context else 300.0
        return Weight(density, -40.0 + 5 * len(context), BEST)

    given = Weight(100.0, -5.0, BEST, 1e5)
    found = conflict_by_pixels(RINGS, given, weigh_as(values, seen), PRIOR)
    del found["dose"]
    # densities for all together, evidence for each alone
    assert found == {
        "context": 200.0,
        "host": -5.0,
        "detector": -10.0,
        "beam_energy": 195.0,
        "several": 180.0,
    }
    everything = frozenset(KNOWN)
    assert seen[1] == everything
    assert set(seen[2:]) == {
        everything - set(CLAIMS[c]) for c in ("host", "detector", "beam_energy")
    }


def test_a_single_claim_is_weighed_once():
    seen, known = [], {"host": "WSe2"}
    weigh = weigh_as(lambda context: Weight(0.0 if context else 1e3, -3.0, BEST), seen)
    found = conflict_by_pixels(Rings(known, (known,)), Weight(0.0, 0.0, BEST), weigh, PRIOR)
    assert found == {"context": 1e3, "host": 1e3 - 3}
    assert seen == [frozenset(), frozenset(known)]


def test_what_a_wider_search_finds_of_the_rest_does_not_speak_against_the_claims():
    """The fit under the claims was the worse one, as the search from the other shows."""
    known = {"host": "WSe2", "beam_energy": 80e3}
    weigh = weigh_as(lambda context: Weight(98.0 if context else 100.0, -3.0, BEST), [])
    found = conflict_by_pixels(Rings(known, (known,)), Weight(0.0, 0.0, BEST), weigh, PRIOR)
    assert found == {"context": 2.0}


def test_a_search_begins_at_fits_of_the_same_sites():
    scan, world, view = noisy_crystal()
    middle, kept = crop(scan, search.MIDDLE)
    values = {n: v[0].tolist() for n, v in view.values.items()}
    here = begin(middle, world.z, world.species[kept])
    weight = Weight(0.0, 0.0, values, scan=middle, world=here)
    other = replace(middle, material=replace(middle.material, host=0))
    near = (weight, Weight(0.0, 0.0), replace(weight, scan=other))
    turned = replace(middle, kind=middle.kind.flip(0))
    (found,) = search._worlds_near(Candidate(scan, (0,), near=near), middle)
    torch.testing.assert_close(found.z, here.z, atol=1e-3, rtol=0)
    assert torch.equal(found.species, here.species)
    assert search._worlds_near(Candidate(scan, (0,), near=near), turned) == []


def test_angles_of_all_detectors_are_left_open_together():
    own = [{"host": "WSe2", "inner_collection_angle": v, "dopant": None} for v in (60.0, 30.0)]
    shared = {"host": "WSe2", "dopant": None}
    rings = Rings(shared, own, ("ADF1", "ADF2"), (1, 0))
    found = rings.without(("inner_collection_angle", "outer_collection_angle", "dopant"))
    assert found.own == [shared, shared]
    assert (found.names, found.order) == (rings.names, ())
    assert rings.without(("host",)).order == rings.order
    conflict = {"context": 50.0, "host": 0.0, "detector": 40.0}
    with pytest.warns(UserWarning, match="wrong is detector = .*ADF1.*60.*ADF2.*30"):
        warn_of_claims(conflict, rings)


@pytest.mark.parametrize(
    ("stated", "implied", "contradicted"),
    [
        (1e5, 1e5, False),
        (1e5, 1.4e5, False),
        (1e5, 5e5, True),
        (1e5, 2e4, True),
        (torch.distributions.Uniform(1e5, 3e5), 2e5, False),
        (torch.distributions.Uniform(1e5, 3e5), 3e4, True),
        ((1e4, 1e5), 1e5, False),
        ((1e4, 1e5), 1e6, True),
    ],
)
def test_the_dose_is_weighed_by_signal_and_noise(stated, implied, contradicted):
    known = {"dose": stated}
    rings, weight = Rings(known, (known,)), Weight(0.0, 0.0, BEST, implied)
    found = conflict_by_pixels(rings, weight, weigh_as(lambda c: 1 / 0, []), PRIOR)
    assert set(found) == {"dose"}
    assert (found["dose"] > PIXEL_LIMIT) == contradicted
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_claims(found, rings)
    assert [str(w.message)[:50] for w in caught] == (
        ["signal and noise of the image speak against dose ="] * contradicted
    )


def test_the_evidence_against_a_dose_is_that_of_the_prior_and_of_a_normal_density():
    """Of an implied dose that is the stated one: analytic where the prior is log-uniform."""
    known, limits = {"dose": 1e5}, (1e3, 1e7)
    prior = PRIOR.given({"dose": log_uniform(*limits)})
    weight = Weight(0.0, 0.0, BEST, 1e5)
    found = conflict_by_pixels(Rings(known, (known,)), weight, weigh_as(None, []), prior)
    free = -math.log(math.log(limits[1] / limits[0]))
    own = -math.log(DOSE_SPREAD * math.sqrt(2 * math.pi))
    # sixty-four nodes, .96 of a standard deviation apart
    assert found["dose"] == pytest.approx(free - own, abs=1e-3)


def test_the_implied_dose_is_less_certain_where_the_absolute_intensity_is():
    """Angles and energy scale the image as a signal does."""
    given = {
        "beam_energy": 80e3, "convergence_semiangle": 25.0, "inner_collection_angle": 60.0,
        "outer_collection_angle": 200.0,
    }  # fmt: skip
    spread = {}
    for name, known in {"open": {}, "given": given}.items():
        prior = crystals.PRIOR.given(known)
        scan, world, _ = noisy_crystal(pixels=40, noise=0.02, prior=prior)
        spread[name] = search._weigh(scan, world, 0.0).dose_spread
    assert 0 < spread["given"] < 0.5 * spread["open"]


def test_the_culprit_is_named_with_its_probability():
    conflict = {"context": 190.0, "host": -3.0, "detector": 20.0, "beam_energy": 170.0}
    match = r"190 nats without it, most likely wrong is beam_energy = 200000.0 \(100 %\)"
    with pytest.warns(UserWarning, match=match):
        warn_of_claims(conflict, RINGS)


def test_several_wrong_claims_are_told_apart_from_one():
    conflict = {"context": 500.0, "host": 30.0, "beam_energy": 40.0, "several": 450.0}
    with pytest.warns(UserWarning, match=r"wrong is more than one value \(100 %\)"):
        warn_of_claims(conflict, RINGS)


def test_what_was_done_to_the_image_is_a_plainer_cause():
    with pytest.warns(UserWarning, match="signs of another .gamma., which may be why"):
        warn_of_claims({"context": 50.0, "host": 30.0}, RINGS, ["gamma"])


@pytest.mark.parametrize(
    "conflict",
    [
        {},
        {"context": -20.0},
        {"context": 40.0, "host": PIXEL_LIMIT, "detector": 0.0},
        # misfit, which no single claim explains
        {"context": 30.0, "host": 2.0, "detector": -8.0, "several": 22.0},
        {"context": 42.0, "host": 12.0, "beam_energy": 23.0, "detector": 8.0, "several": 35.0},
    ],
)
def test_claims_that_agree_are_not_warned_of(conflict):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_claims(conflict, RINGS)
    assert not caught


def test_candidates_add_up_with_their_prior():
    scan, *_ = noisy_crystal()
    candidates = [Candidate(scan, (0,), math.log(0.25)), Candidate(scan, (0,), math.log(0.75))]
    lattices = Lattices(candidates, [0, 1], np.zeros(0, int))
    both = weigh_lattices(lattices, {0: Weight(5.0, -2.0), 1: Weight(4.0, -1.0, BEST)})
    assert both.values == BEST
    assert both.log_evidence == pytest.approx(3.0)
    assert both.log_density == pytest.approx(4.0 + math.log(0.75))
    one = weigh_lattices(lattices, {0: Weight(5.0, -2.0)})
    assert one.log_evidence == pytest.approx(3.0 + math.log(0.25))


@pytest.mark.slow
def test_pixels_speak_against_a_wrong_energy_and_not_against_the_true_one(monkeypatch):
    for name, value in (("NUM_TRIED", 16), ("NUM_CLIMBED", 2), ("MOST_ANNEALED", 1)):
        monkeypatch.setattr(search, name, value)
    prior = reference_prior().given(
        {"host": "WSe2", "dopant": "Ti", "dose": 1e5, "convergence_semiangle": 30.0}
    )
    true = prior.given({"beam_energy": 80e3})
    scan, world, _ = noisy_crystal(pixels=56, noise=0.02, prior=true)
    density = {}
    for name, claimed in {
        "true": true,
        "open": prior,
        "wrong": prior.given({"beam_energy": 200e3}),
    }.items():
        coordinates = Coordinates(claimed.conditions[0], claimed.nuisances)
        own = replace(scan, coordinates=coordinates)
        candidate = Candidate(own, (scan.material.dopant,), species=world.species)
        (weight,) = weigh_scan([candidate], seed=0).values()
        density[name] = weight.log_density
    assert density["open"] - density["wrong"] > SCREENED
    assert density["open"] - density["true"] < SCREENED
