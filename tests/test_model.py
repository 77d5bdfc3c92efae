import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from samples import solve_table

from bayesctx import DefectModel, Prior, checks, reference_prior, tmd_prior
from bayesctx.defects import DEFECTS
from bayesctx.inference.image import one_image
from bayesctx.model import Materials, SitePrior, outcome_classes
from bayesctx.prior import CONTINUOUS

POINT = dict(zip(CONTINUOUS, (80e3, 28.0, 60.0, 200.0, 15.0, 1e5), strict=True))


def enumerate_program(model, features, sublattice=None):
    """p(defect | contrast), shape (image, patch, class), by enumeration of the Pyro program.

    The abundances are fixed at their mean, which is exact if all sites of an image differ in kind.
    """
    num_images, num_patches = features.shape[:2]
    if sublattice is None:
        sites = SitePrior.of_patches(model.prior, num_patches)
    else:
        sites = SitePrior.of_lattice(model.prior, sublattice)
    # abundances that are known need no condition
    is_open = bool(sites.abundance.is_free.any())
    mean = {"abundance": sites.mean.expand(num_images, 1, *sites.mean.shape)}
    program = pyro.condition(model, mean if is_open else {})
    trace = poutine.trace(poutine.enum(program, first_available_dim=-3)).get_trace(
        features, sublattice=sublattice
    )
    trace.compute_log_prob()
    shared = ("condition", "host", "dopant", "assignment")
    image, patch = (
        sum(trace.nodes[n]["log_prob"] for n in names) for names in (shared, ("defect", "contrast"))
    )
    dim = trace.nodes["defect"]["infer"]["_enumerate_dim"]
    joint = torch.broadcast_tensors(image, patch)[1]  # (..., image, patch)
    evidence = joint.logsumexp(dim, keepdim=True)
    # the other patches of an image are evidence for its host, dopant and assignment
    others = evidence.sum(-1, keepdim=True) - evidence
    total = (image + joint + others).movedim(dim, 0)
    return total.logsumexp(list(range(1, total.ndim - 2))).movedim(0, -1).softmax(-1)


def test_the_program_states_the_assignment_of_a_lattice(untrained):
    """One site on each sublattice: the enumerated trace against the posterior of one image."""
    prior = Prior(
        (POINT,), hosts=("MoS2", "WSe2"), dopants={"MoS2": ("W", "Ti"), "WSe2": ("Ti", "V")}
    )
    model = untrained.with_prior(prior)
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
    sublattice = torch.tensor([2, 0, 1])
    with torch.no_grad():
        slow = enumerate_program(model, features[None], sublattice)[0]
        materials = Materials.of(prior)
        table = model.tabulate({n: torch.tensor([v]) for n, v in POINT.items()}, materials)
        sites = SitePrior.of_lattice(prior, sublattice)
        fast = one_image(table, features, materials, torch.ones(1, dtype=torch.bool), sites, 0.0)
    assert len(sites.assignments) == 6
    assert torch.allclose(fast.classes.defect, slow, atol=1e-4)


def test_fast_inference_is_the_pyro_program(untrained):
    """Class posterior of patches: enumerated trace, vectorised sum, and posterior of one image."""
    prior = Prior(
        (POINT,),
        hosts=("MoS2", "WSe2", "NbS2"),
        dopants={"MoS2": ("W", "Ti"), "WSe2": ("Ti", "V"), "NbS2": ("Re", "Co")},
    )
    model = untrained.with_prior(prior)
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        slow = enumerate_program(model, features[:, None])[:, 0]
        materials = Materials.of(prior).map(lambda f: f[None])
        context = {n: torch.tensor([[v]]) for n, v in POINT.items()}
        table = model.tabulate(context, materials)
        possible = torch.ones(1, 1, dtype=torch.bool)
        equal, generator = torch.full((13,), 1 / 13), torch.Generator().manual_seed(0)
        sampling = {"num_draws": 4000, "generator": generator}
        fast = solve_table(table, features, materials, possible, equal, **sampling)
        sites = SitePrior.of_patches(prior, 1)
        single = torch.stack(
            [
                one_image(
                    table[0], f[None], materials.row(0), possible[0], sites, 0.1
                ).classes.defect[0]
                for f in features
            ]
        )
    assert torch.allclose(fast.defect, slow, atol=1e-5)
    # robust to what no hypothesis explains by one part in a million of the best density
    assert torch.allclose(single, slow, atol=1e-4)
    # systematic resampling: frequencies of 4000 draws differ by less than 4 / sqrt(4000)
    drawn = torch.stack(
        [torch.bincount(outcome_classes(2)[o], minlength=13) / 4000 for o in fast.outcome]
    )
    assert float((drawn - fast.defect).abs().max()) < 0.063


def test_program_draws_from_its_prior(untrained):
    """Without observations hosts and beam energies follow the prior."""
    model = untrained.with_prior(tmd_prior())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(model).get_trace(num_images=400, num_patches=2)
    assert trace.nodes["contrast"]["value"].shape == (400, 2, 6)
    hosts = torch.bincount(trace.nodes["host"]["value"].ravel(), minlength=12) / 400
    assert float((hosts - 1 / 12).abs().max()) < 4 * (11 / 144 / 400) ** 0.5
    energies = trace.nodes["beam_energy"]["value"].unique().tolist()
    assert energies == [60e3, 80e3, 200e3]


def test_conditions_may_differ_in_numbers_only(untrained):
    angle = reference_prior().conditions[0]["convergence_semiangle"]
    other = reference_prior().conditions[0]["defocus"]
    prior = Prior((POINT | {"defocus": angle}, POINT | {"defocus": other}))
    with pytest.raises(ValueError, match="differ in numbers only.*defocus"):
        untrained.with_prior(prior)(num_images=1, num_patches=1)


def test_other_patches_need_another_model(untrained):
    with pytest.raises(ValueError, match="32 pixels of 0.25 Å were expected"):
        untrained.with_prior(Prior((POINT,), num_pixels=48))


def test_domains_are_those_of_training(untrained):
    low, high = untrained.with_prior(tmd_prior()).domains["beam_energy"]
    assert (low, high) == (60e3, 200e3)
    trained = DefectModel(tmd_prior(), **untrained.sizes)
    trained.card = {"prior": reference_prior().to_dict()}
    assert trained.domains["beam_energy"][0] == pytest.approx(40e3, rel=1e-3)


def test_outcomes_are_classes_then_dopants():
    classes = outcome_classes(3)
    assert len(classes) == 15
    assert [DEFECTS[c] for c in classes[-3:]] == ["D_M"] * 3
    assert sorted(np.unique(classes)) == list(range(13))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"hidden": 0}, ValueError, "hidden was expected to be at least 1"),
        ({"width": 2.5}, TypeError, "width was expected as a whole number"),
        ({"num_components": 10**9}, ValueError, "num_components was expected to be at least 1"),
        ({"width": 10**6}, ValueError, "1 GB of memory was expected, got networks of 1000000 and"),
        ({"num_features": 10**5, "num_components": 100}, ValueError, "and 20000100 outputs"),
        ({"seed": -1}, ValueError, "seed was expected to be at least 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes, error, message, monkeypatch):
    monkeypatch.setattr(checks, "_memory", lambda: 1e9)
    with pytest.raises(error, match=message):
        DefectModel(tmd_prior(), **sizes)


def test_a_model_needs_a_prior():
    with pytest.raises(TypeError, match="a Prior was expected, got 'tmd'; use reference_prior()"):
        DefectModel("tmd")


KNOWN_SHARES = {"M": 0.87, "D_M": 0.1, "adatom_M": 0.03, "X2": 0.8, "V_X": 0.2, "hollow": 0.97}


@pytest.mark.parametrize("evidence", [
    {"abundance": KNOWN_SHARES},
    {"dopant": None, "abundance": {"M": 1.0, "X2": 1.0, "hollow": 1.0}},
])  # fmt: skip
def test_the_program_and_inference_agree_under_known_abundances(untrained, evidence):
    """Nine sites whose abundances are known: nothing is approximated but the floor of a density."""
    prior = Prior((POINT,), hosts=("WSe2",), dopants={"WSe2": ("Ti", "V")})
    model = untrained.with_prior(prior)
    sublattice = torch.arange(9) % 3
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        given = model.with_prior(prior.given(evidence))
        # features of the model, so that no site is an outlier
        features = given(sublattice=sublattice, num_patches=9)[0]
        slow = enumerate_program(given, features[None], sublattice)[0]
        materials = Materials.of(given.prior)
        table = model.tabulate({n: torch.tensor([v]) for n, v in POINT.items()}, materials)
        sites = SitePrior.of_lattice(prior, sublattice).given(prior, evidence)
        fast = one_image(table, features, materials, torch.ones(1, dtype=torch.bool), sites, 0.0)
    assert torch.allclose(fast.classes.defect, slow, atol=1e-4)
    named = {DEFECTS.index(d) for d in evidence["abundance"]}
    assert (fast.classes.defect[:, [i for i in range(13) if i not in named]] == 0).all()


def test_the_program_draws_the_abundances_that_were_given(untrained):
    evidence = {"Y_X": 0.0, "V_X": 0.03, "O_X": dist.Uniform(0.0, 0.1)}
    model = untrained.with_prior(Prior((POINT,)).given({"abundance": evidence}))
    sublattice = torch.tensor([0, 1, 2])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(model).get_trace(num_images=400, num_patches=3, sublattice=sublattice)
    drawn = trace.nodes["abundance"]["value"]
    assert drawn.shape == (400, 1, 3, 13)
    assert torch.allclose(drawn.sum(-1), torch.ones(400, 1, 3))
    chalcogen = drawn[:, 0, 1]
    assert (chalcogen[:, DEFECTS.index("Y_X")] == 0).all()
    assert torch.allclose(chalcogen[:, DEFECTS.index("V_X")], torch.tensor(0.03))
    oxygen = chalcogen[:, DEFECTS.index("O_X")]
    assert abs(float(oxygen.mean()) - 0.05) < 4 * 0.1 / 12**0.5 / 400**0.5
    assert float(oxygen.std()) == pytest.approx(0.1 / 12**0.5, rel=0.15)
    assert (trace.nodes["defect"]["value"] != DEFECTS.index("Y_X")).all()


def test_the_program_can_be_run_where_angles_do_not_go_with_each_other(untrained):
    """Such draws have no density, and all that follows from them is finite."""
    model = untrained.with_prior(reference_prior())
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(True):
        pyro.set_rng_seed(0)
        trace = poutine.trace(model).get_trace(num_images=200)
    allowed = trace.nodes["annular_dark_field"]["fn"].log_factor
    assert allowed.isinf().any()
    assert allowed.isfinite().any()
    assert trace.nodes["contrast"]["value"].isfinite().all()
