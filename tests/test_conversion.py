"""Results for ArviZ: names instead of codes, few variables, predicted images."""

import importlib.metadata
import warnings

import arviz
import numpy as np
import pytest
import xarray as xr
from crystal_results import draw_crystal, index, make_result

import bayesctx as bc
from bayesctx.crystal import METALS
from bayesctx.defects import DEFECTS
from bayesctx.inference.conversion import DEFAULT, arrange_for_arviz

IS_NEW = int(importlib.metadata.version("arviz").split(".")[0]) >= 1


@pytest.fixture(scope="module")
def micrograph():
    data = bc.simulate_micrograph(bc.reference_prior(), seed=1, num_pixels=128, sampling=0.2)
    known = {n: data[n].item() for n in bc.CONTEXT if n in data and n not in ("dopant", "dose")}
    known["dopant"] = ["Ti", "V", "Nb"]
    return bc.infer(data.intensity, known, likelihood="network", num_draws=256)


@pytest.fixture
def drawn():
    """A result of 200 draws: dopants Ti 120, V 79, Nb 1; two assignments; two continuous ones."""
    draws, places, sublattice = draw_crystal(200)
    dopant = np.repeat([METALS.index(n) for n in ("Ti", "V", "Nb")], [120, 79, 1])
    assignment = np.repeat([0, 3], [150, 50])
    variables = {"dopant": dopant, "assignment": assignment}
    result = make_result(draws, places, sublattice, given={"host": "WSe2"}, variables=variables)
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(len(DEFECTS)), (1, 200))
    shares[..., index("M_X")[0]] = 0.0
    continuous = {
        "dose": (("chain", "draw"), rng.uniform(1e4, 2e4, (1, 200))),
        "C12": (("chain", "draw"), rng.uniform(0, 30, (1, 200))),
        "concentration": (("chain", "draw", "defect_class"), shares),
    }
    posterior = result["posterior"].to_dataset().assign(continuous)
    coordinates = {"chain": [0], "draw": np.arange(200), "defect_class": list(DEFECTS)}
    result["posterior"] = posterior.assign_coords(coordinates)
    result["prior"] = xr.Dataset({n: posterior[n] for n in ("dose", "C12", "dopant")})
    result["log_likelihood"] = xr.Dataset({"image": (("chain", "draw"), np.zeros((1, 200)))})
    return result


def arrange(result, variables=DEFAULT, sites=(), num_predicted=0, as_quantiles=False):
    return arrange_for_arviz(result, variables, sites, num_predicted, as_quantiles)


def test_codes_become_indicators_of_names(drawn):
    tree = arrange(drawn)
    posterior = tree["posterior"]
    assert set(posterior.data_vars) == {"dose", "dopant", "assignment", "concentration"}
    assert posterior.dopant_class.values.tolist() == ["Ti", "V", "others"]
    assert posterior.dopant.mean(("chain", "draw")).values.tolist() == [0.6, 0.395, 0.005]
    assert (posterior.dopant.sum("dopant_class") == 1).all()
    names = posterior.assignment_class.values.tolist()
    assert names == ["metal-chalcogen-hollow", "chalcogen-hollow-metal"]
    # the prior has the same names
    assert tree["prior"].dopant_class.identical(posterior.dopant_class)
    assert set(tree["prior"].data_vars) == {"dose", "dopant"}
    # a class that no draw has any of has no density
    assert set(DEFECTS) - set(posterior.defect_class.values.tolist()) == {"M_X"}
    assert "log_likelihood" not in tree.children
    assert tree.attrs == drawn.attrs


def test_what_does_not_vary_is_a_constant(drawn):
    one = drawn.isel(draw=slice(0, 100))
    tree = arrange(one)
    assert {"dopant", "assignment"}.isdisjoint(tree["posterior"].data_vars)
    assert tree["constant_data"].dopant == "Ti"
    assert tree["constant_data"].assignment == "metal-chalcogen-hollow"


def test_a_number_of_which_all_draws_are_equal_is_a_constant(drawn):
    drawn["posterior"]["dose"] = xr.full_like(drawn["posterior"].dose, 2e4)
    tree = arrange(drawn)
    assert "dose" not in tree["posterior"]
    assert tree["constant_data"].dose == 2e4


@pytest.fixture
def repeated(drawn):
    """The result with 1000 draws that repeat 20 of the context, each as often, in random order."""
    which = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 50))
    posterior = drawn["posterior"].to_dataset().isel(draw=which)
    own = np.random.default_rng(2).dirichlet(np.ones(13), (1, 1000))
    posterior["concentration"] = ("chain", "draw", "defect_class"), own
    posterior = posterior.assign(beam_energy=posterior.dose * 2)
    drawn["posterior"] = posterior.assign_coords(draw=np.arange(1000))
    return drawn


def test_copies_of_a_draw_count_once(repeated):
    effective = arviz.ess(arrange(repeated)["posterior"].to_dataset())
    assert arviz.ess(repeated["posterior"].dose.values) > 500
    assert 10 < effective.dose < 50
    assert 10 < effective.beam_energy < 50
    # what each draw has of its own stays independent
    assert (effective.concentration > 500).all()
    # the draws are joint ones
    before, after = repeated["posterior"], arrange(repeated, "context")["posterior"]
    assert (after.beam_energy == 2 * after.dose).all()
    assert after.draw.equals(before.draw)
    assert sorted(after.dose.values[0]) == sorted(before.dose.values[0])


def test_draws_of_markov_chains_keep_their_order(repeated):
    repeated["sample_stats"]["r_hat"] = ("variable", [1.0])
    assert arrange(repeated)["posterior"].dose.equals(repeated["posterior"].dose)


def test_variables_are_chosen_by_name_or_kind(drawn):
    assert list(arrange(drawn, "context")["posterior"].data_vars) == ["dose"]
    assert set(arrange(drawn, ["C12", "material"])["posterior"].data_vars) == {
        "C12", "dopant", "assignment"
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown variable or kind of variables 'dosis'.* 'dose'"):
        arrange(drawn, "dosis")


def test_classes_of_sites_have_names_and_numbers(drawn):
    tree = arrange(drawn, sites=[7, 3])
    found = tree["posterior"].defect
    assert found.patch.values.tolist() == [7, 3]
    for k, site in enumerate((7, 3)):
        for name in found.site_class.values:
            expected = (drawn["posterior"].defect.values[..., site] == DEFECTS.index(name)).mean()
            mean = found[..., k, :].sel(site_class=name).mean()
            assert mean == pytest.approx(expected)
    # the same numbers name the sites in every group
    place = tree["constant_data"].site_x.sel(patch=7)
    assert place == drawn["constant_data"].site_x[7]
    everywhere = arrange(drawn, "defect")["posterior"].defect
    assert everywhere.sizes["patch"] == drawn["constant_data"].sizes["patch"]


@pytest.mark.parametrize("sites", [3, "3", None])
def test_sites_are_a_sequence(sites, drawn):
    with pytest.raises(TypeError, match=r"a sequence of numbers of sites was expected.*; write \["):
        arrange(drawn, sites=sites)


def test_a_site_is_one_of_the_result(drawn):
    with pytest.raises(ValueError, match="sites"):
        arrange(drawn, sites=[10**6])


def test_quantiles_of_the_prior_fit_on_one_axis(drawn):
    tree = arrange(drawn, ["context", "C12", "abundance"], as_quantiles=True)
    posterior = tree["posterior"]
    # the prior of this result has the same draws
    for name in ("dose", "C12"):
        assert posterior[name].mean() == pytest.approx(0.5)
        assert posterior[name].min() > 0
        assert posterior[name].max() < 1
        assert np.sort(tree["prior"][name]) == pytest.approx(np.sort(posterior[name]))
    order = drawn["prior"].dose.values.argsort()
    assert tree["prior"].dose.values[..., order[0, 50]] == pytest.approx(50.5 / 200)
    # shares are on this axis already
    assert posterior.concentration.max() == drawn["posterior"].concentration.max()
    # what has no prior has no quantile
    del drawn["prior"]["C12"]
    assert "C12" not in arrange(drawn, "C12", as_quantiles=True)["posterior"]


def test_quantiles_are_those_of_each_detector(drawn):
    tilted = xr.DataArray(np.arange(200.0)[None], dims=("chain", "draw"))
    angles = xr.concat([tilted, 1000 + 2 * tilted], "detector").transpose("chain", "draw", ...)
    drawn["posterior"]["inner_collection_angle"] = angles
    drawn["prior"]["inner_collection_angle"] = angles
    found = arrange(drawn, as_quantiles=True)["posterior"].inner_collection_angle
    assert found.dims == ("chain", "draw", "detector")
    assert found[..., 0].equals(found[..., 1])


@pytest.fixture
def quiet():
    """ArviZ 0 uses what newer versions of matplotlib deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_the_installed_arviz_summarises_by_default(micrograph):
    data = bc.to_arviz(micrograph)
    assert isinstance(data, xr.DataTree if IS_NEW else arviz.InferenceData)
    summary = arviz.summary(data, kind="stats")
    assert {"dose", "dopant[Ti]", "concentration[V_X]"} <= set(summary.index)
    assert len(summary) < 30
    share = micrograph["posterior"].dopant.values == METALS.index("Ti")
    assert summary.loc["dopant[Ti]", "mean"] == pytest.approx(share.mean(), abs=0.01)


CLASSES = {"defect_class": ["X2", "V_X", "O_X"]}
CALLS = [
    ("plot_forest", "plot_forest", {}),
    ("plot_posterior", "plot_dist", {}),
    ("plot_trace", "plot_trace", {}),
    ("plot_pair", "plot_pair", {"coords": CLASSES}),
]


@pytest.mark.parametrize(("name", "new_name", "options"), CALLS)
def test_the_installed_arviz_draws_the_abundances(name, new_name, options, micrograph, quiet):
    data = bc.to_arviz(micrograph, num_predicted=0)
    axes = drawn_axes(new_name if IS_NEW else name, data, var_names=["concentration"], **options)
    most = 3 if options else len(micrograph["posterior"].defect_class)
    assert sum(len(ax.lines) + len(ax.collections) for ax in axes) >= most
    if name == "plot_forest":
        assert span_of(axes) == pytest.approx((0, 1), abs=0.2)


def drawn_axes(name, data, **options):
    """Axes of a picture of ArviZ that show something."""
    plt = pytest.importorskip("matplotlib.pyplot")
    getattr(arviz, name)(data, **options)
    axes = [ax for ax in plt.gcf().axes if ax.axison and ax.has_data()]
    plt.close("all")
    return axes


def span_of(axes):
    """Limits of all axes together."""
    limits = np.array([ax.get_xlim() for ax in axes if ax.lines])
    return limits.min(), limits.max()


@pytest.mark.parametrize(("name", "new_name"), [row[:2] for row in CALLS])
def test_the_installed_arviz_draws_the_context(name, new_name, drawn, quiet):
    is_forest = name == "plot_forest"
    data = bc.to_arviz(drawn, variables=["context", "C12"], as_quantiles=is_forest, num_predicted=0)
    axes = drawn_axes(new_name if IS_NEW else name, data, var_names=["dose", "C12"])
    assert axes
    if is_forest:
        assert span_of(axes) == pytest.approx((0, 1), abs=0.2)


def test_the_installed_arviz_ranks_the_draws_of_chains(drawn, quiet):
    posterior = drawn["posterior"].to_dataset()
    four = {n: (v.dims, v.values.reshape(4, 50, *v.shape[2:])) for n, v in posterior.items()}
    coordinates = {"chain": np.arange(4), "defect_class": posterior.defect_class}
    drawn["posterior"] = xr.Dataset(four, coordinates)
    data = bc.to_arviz(drawn, variables=["context", "C12"], num_predicted=0)
    assert len(drawn_axes("plot_rank", data, var_names=["dose", "C12"])) == 2


def test_the_installed_arviz_draws_predicted_images(micrograph, quiet):
    name = "plot_ppc_dist" if IS_NEW else "plot_ppc"
    options = {"num_samples": 10} if IS_NEW else {}
    assert len(drawn_axes(name, bc.to_arviz(micrograph), **options)) == 1


def test_images_are_predicted_of_micrographs_alone(micrograph):
    predicted = arrange(micrograph, num_predicted=3)["posterior_predictive"].intensity
    assert predicted.dims == ("chain", "draw", "y", "x")
    assert predicted.shape == (1, 3, 128, 128)
    by_default = arrange(micrograph, num_predicted=None)["posterior_predictive"]
    assert by_default.sizes["draw"] == 10
    data = bc.simulate(bc.reference_prior(), 2, seed=2)
    patches = bc.infer(data.intensity, {}, num_draws=64)
    assert "posterior_predictive" not in arrange(patches, num_predicted=None).children
    with pytest.raises(ValueError, match="a result of a micrograph was expected"):
        arrange(patches, num_predicted=3)
