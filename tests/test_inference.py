import json
import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from samples import solve_table
from scipy.stats import kstest

import bayesctx as bc
from bayesctx.defects import SITES
from bayesctx.inference.cases import group_images
from bayesctx.model import Materials
from bayesctx.prior import CONTINUOUS
from bayesctx.training import fit_conflict

GROUPS = {
    "posterior",
    "class_posterior",
    "log_likelihood",
    "prior",
    "sample_stats",
    "observed_data",
    "constant_data",
}
MATERIAL = {"host": "WSe2", "dopant": "Ti"}
CONDITIONS = {
    "beam_energy": 80e3, "convergence_semiangle": 25.0, "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0, "defocus": 0.0, "dose": 1e5,
}  # fmt: skip


@pytest.fixture(scope="module")
def patches():
    return bc.simulate(bc.reference_prior(), 6, seed=3)


@pytest.fixture(scope="module")
def micrograph():
    prior = bc.reference_prior().given(MATERIAL | CONDITIONS)
    return bc.simulate_micrograph(prior, seed=1, num_pixels=120, sampling=0.25)


@pytest.fixture(scope="module")
def reference():
    return bc.load_model()


def infer(*arguments, **options):
    """Inference of an untrained model, whose few effective draws are not the point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the posterior rests on", UserWarning)
        return bc.infer(*arguments, likelihood="network", **options)


def check(result, dims, num_draws):
    """What every result promises."""
    assert set(result.children) == GROUPS
    assert all(
        "units" in v.attrs for group in result.children.values() for v in group.data_vars.values()
    )
    defect = result["class_posterior"].defect
    assert defect.dims == (*dims, "patch", "defect_class")
    assert list(defect.defect_class.values) == list(bc.DEFECTS)
    joint = {"defect_host", "dopant_at_site"}
    for name, values in result["class_posterior"].data_vars.items():
        assert name in joint or np.allclose(values.sum(values.dims[-1]), 1, atol=1e-4), name
    assert result["posterior"].defect.dims == ("chain", "draw", *dims, "patch")
    assert result["posterior"].defect.dtype.kind == "i"
    assert result["posterior"].sizes["draw"] == num_draws
    assert result["log_likelihood"].contrast.dims == ("chain", "draw", *dims, "patch")
    assert bool(np.isfinite(result["log_likelihood"].contrast).all())
    assert set(result["prior"].data_vars) <= set(result["posterior"].data_vars)
    assert result.attrs["version"] == "0.1.0"
    assert len(result.attrs["model"]) == 16


LAYOUTS = {
    "one patch": (lambda x: x.isel(image=0), ()),
    "independent": (lambda x: x, ("image",)),
    "one image": (lambda x: x.rename(image="patch"), ()),
    "images of patches": (lambda x: x.values.reshape(2, 3, 32, 32), ("image",)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "context",
    [{}, {"host": "WSe2", "dose": 1e4}, MATERIAL | CONDITIONS],
    ids=["none", "some", "all"],
)
def test_every_layout_and_context_keeps_the_contract(layout, context, patches, untrained):
    arrange, dims = LAYOUTS[layout]
    result = infer(arrange(patches.intensity), context, untrained, num_draws=32)
    check(result, dims, 32)
    latent = {"host", "dopant", *CONTINUOUS} - set(context)
    assert set(result["prior"].data_vars) == latent
    assert latent | {"defect"} <= set(result["posterior"].data_vars)
    assert set(context) <= set(result["constant_data"].data_vars)


def test_a_micrograph_keeps_the_contract(micrograph, untrained):
    result = infer(
        micrograph.intensity, {"host": "WSe2", "beam_energy": 80e3}, untrained, num_draws=32
    )
    check(result, (), 32)
    constants = result["constant_data"]
    # the size of a pixel is read off the lattice, strain and drift included
    stretch = float((1 + micrograph.strain) * (1 + micrograph.drift_y) ** 0.5)
    assert constants.sampling == pytest.approx(0.25 / stretch, rel=0.01)
    num_sites = result["class_posterior"].sizes["patch"]
    # three sites per cell, found up to the border
    assert num_sites == pytest.approx(3 * 30**2 / (3.28**2 * np.sqrt(0.75)), rel=0.05)
    for name in ("site_y", "site_x"):
        assert constants[name].min() >= 0
        assert constants[name].max() <= 119
    assert result["class_posterior"].assignment.sizes == {"assignment_class": 6}


def test_simulated_data_go_straight_back(patches, untrained):
    data = patches[["host", "dopant", *CONTINUOUS]]
    whole = infer(patches.intensity, data, untrained, num_draws=8)
    single = infer(
        patches.intensity.isel(image=slice(2, 3)),
        data.isel(image=slice(2, 3)),
        untrained,
        num_draws=8,
    )
    assert np.allclose(
        whole["class_posterior"].defect[2], single["class_posterior"].defect[0], atol=1e-5
    )
    assert whole["class_posterior"].host.argmax("host_class").values.tolist() == [
        list(bc.HOSTS).index(h) for h in data.host.values
    ]


def test_context_is_kept_soft_or_hard(patches, untrained):
    context = {
        "host": ["MoS2", "WS2"],
        "dose": dist.Uniform(1e4, 2e4),
        "beam_energy": [60e3, 200e3],
    }
    result = infer(patches.intensity, context, untrained, num_draws=64)
    probabilities = result["class_posterior"].host
    assert np.allclose(
        probabilities.sel(host_class=["MoS2", "WS2"]).sum("host_class"), 1, atol=1e-5
    )
    draws = result["posterior"]
    assert draws.dose.min() >= 1e4
    assert draws.dose.max() <= 2e4
    assert set(np.unique(draws.beam_energy)) <= {60e3, 200e3}
    assert bool((draws.convergence_semiangle <= draws.inner_collection_angle).all())


def test_many_returned_draws_rest_on_more_of_the_context(patches, untrained):
    few, many = (
        infer(patches.intensity[:1], {"host": "MoS2"}, untrained, num_draws=n)["posterior"]
        for n in (1000, 4096)
    )
    assert len(np.unique(few.dose)) < len(np.unique(many.dose))


def test_seed_decides(patches, untrained):
    first, same, other = (
        infer(patches.intensity, {}, untrained, num_draws=16, seed=s) for s in (0, 0, 1)
    )
    xr.testing.assert_identical(first["posterior"].to_dataset(), same["posterior"].to_dataset())
    assert not first["posterior"].dose.equals(other["posterior"].dose)


def test_units_of_the_intensity_do_not_matter(patches, untrained):
    first = infer(patches.intensity, {}, untrained, num_draws=16)
    second = infer(3e4 * patches.intensity + 100, {}, untrained, num_draws=16)
    assert np.allclose(first["class_posterior"].defect, second["class_posterior"].defect, atol=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("known", [(), ("host",)])
def test_patches_of_one_image_agree_with_a_patch_alone(known, patches, untrained):
    """The two paths of the enumeration give the same posterior where an image has one patch."""
    from bayesctx.inference.image import one_image
    from bayesctx.model import SitePrior

    prior = untrained.prior.given({n: str(patches[n].values[0]) for n in known})
    (question,) = group_images(prior, {}, 1, 64, 0)
    table = untrained.tabulate(question.context, question.materials)
    features = untrained.encoder(torch.from_numpy(patches.intensity.values[:1]))
    weight = torch.full((13,), 1 / 13)
    alone = solve_table(
        table,
        features,
        question.materials,
        question.possible,
        weight,
        num_draws=8,
        generator=torch.Generator(),
    )
    sites = SitePrior.of_patches(untrained.prior, 1)
    image = one_image(
        table[0], features, question.materials.row(0), question.possible[0], sites, 0.3
    )
    assert torch.allclose(alone.defect[0], image.classes.defect[0], atol=2e-4)
    assert torch.allclose(alone.material[0], image.material, atol=2e-4)


BAD = {
    "zeros": (np.zeros((3, 32, 32)), "patch 0 has intensities from 0.0 to 0.0"),
    "nan": (np.where(np.eye(32) > 0, np.nan, 1.0)[None], "patch 0 has pixels that are NaN"),
    "colours": (np.ones((64, 64, 3)), "as of colours; pass the data"),
    "order": (xr.DataArray(np.ones((32, 32, 4)), dims=("y", "x", "patch")), "transpose the image"),
    "detectors": (
        xr.DataArray(np.ones((2, 32, 32)), dims=("detector", "y", "x")),
        "of several detectors, got",
    ),
    "small": (np.random.default_rng(0).random((2, 20, 20)), "patches of at least 8 Å"),
    "none": (np.ones((0, 32, 32)), "at least one image"),
    "row": (np.ones(32), "dimensions"),
    "noise": (np.random.default_rng(0).random((128, 128)), "a hexagonal lattice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_stopped_in_one_line(name, untrained):
    image, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        infer(image, {"sampling": 0.25}, untrained)
    assert "\n" not in str(caught.value)


def test_bad_questions_are_stopped(patches, micrograph, untrained):
    with pytest.raises(ValueError, match="was expected between"):
        infer(patches.intensity, {"beam_energy": 80}, untrained)
    with pytest.raises(ValueError, match="host was expected for 6 images, got 2 values"):
        infer(patches.intensity, {"host": np.array(["MoS2", "WS2"])}, untrained)
    with pytest.raises(ValueError, match="num_draws was expected to be at least 1"):
        infer(patches.intensity, {}, untrained, num_draws=0)
    with pytest.raises(ValueError, match="a lattice constant of 3.32 Å was expected for WSe2"):
        infer(micrograph.intensity, {"host": "WSe2", "sampling": 0.4}, untrained)
    with pytest.raises(ValueError, match="one value for the micrograph"):
        infer(micrograph.intensity, {"host": "WSe2", "dose": np.array([1e4, 1e5])}, untrained)


def test_few_effective_draws_are_told(micrograph, reference):
    with pytest.warns(UserWarning, match="effective draws of the context"):
        result = bc.infer(
            micrograph.intensity, {"host": "WSe2"}, reference, num_draws=16, likelihood="network"
        )
    assert float(result["sample_stats"].ess) < 8


def test_results_survive_their_file(patches, micrograph, untrained, tmp_path):
    for image in (patches.intensity, micrograph.intensity):
        result = infer(
            image, {"host": "WSe2", "dose": dist.LogNormal(10.0, 1.0)}, untrained, num_draws=8
        )
        path = bc.save(result, tmp_path / "result.nc")
        xr.testing.assert_identical(bc.load(path), result)
        assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt, RuntimeError("NetCDF: HDF error"), OSError(28, "No space left on device")],
)
def test_an_existing_file_is_never_damaged(error, patches, untrained, tmp_path, monkeypatch):
    result = infer(patches.intensity, {}, untrained, num_draws=4)
    path = bc.save(result, tmp_path / "result.nc")
    before = path.read_bytes()

    def fail(self, target, **_):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(xr.DataTree, "to_netcdf", fail)
    # the cause is looked for, and what has another one is passed on as it is
    with pytest.raises(error if isinstance(error, type) else type(error)):
        bc.save(result, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_a_foreign_file_is_refused(patches, untrained, tmp_path):
    path = bc.save(infer(patches.intensity, {}, untrained, num_draws=4), tmp_path / "result.nc")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="truncated or foreign"):
        bc.load(path)
    patches.to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match="carries no such mark"):
        bc.load(tmp_path / "other.nc")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        bc.load(tmp_path / "none.nc")


def test_arviz_takes_a_result(patches, untrained):
    import arviz as az

    result = infer(
        patches.intensity.rename(image="patch"), {"host": "WSe2"}, untrained, num_draws=50
    )
    summary = az.summary(bc.to_arviz(result), var_names=["inner_collection_angle", "concentration"])
    assert len(summary) == 14


def test_a_micrograph_with_known_context_is_read(micrograph, reference):
    """At 1e5 e/Å² in MAADF metal, chalcogen and hollow are told apart at nearly every site."""
    from scipy.spatial import cKDTree

    result = bc.infer(micrograph.intensity, MATERIAL | CONDITIONS, reference, likelihood="network")
    found = np.stack([result["constant_data"][n].values for n in ("site_y", "site_x")], -1)
    true = np.stack([micrograph[n].values for n in ("site_y", "site_x")], -1)
    distance, nearest = cKDTree(found).query(true)
    near = distance * 0.25 < 0.8
    best = result["class_posterior"].defect.argmax("defect_class").values[nearest]
    assert near.mean() > 0.95
    assert np.mean(np.array(bc.DEFECTS)[best][near] == micrograph.defect.values[near]) > 0.9


def draw_from_model(model, num, generator):
    """Classes, context and contrast from the model's own joint density."""
    prior, materials = model.prior, Materials.of(model.prior)
    context, possible = prior.quantiles(
        torch.rand(4 * num, 1 + len(CONTINUOUS), generator=generator)
    )
    chosen = possible.nonzero()[:num, 0]
    context = {n: v[chosen] for n, v in context.items()}
    host = torch.multinomial(materials.host_weight, num, True, generator=generator)
    dopant = torch.multinomial(materials.dopant_weight[host], 1, generator=generator)[:, 0]
    defect = torch.randint(13, (num,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        density = model.contrast_given(
            defect, materials.host[host], materials.dopant[host, dopant], context
        )
        return defect, context, density.sample()


@pytest.fixture(scope="module")
def calibrated(reference):
    """Posteriors of contrasts that the model itself drew: exact up to the draws of the context."""

    with torch.no_grad():
        defect, context, features = draw_from_model(
            reference, 1600, torch.Generator().manual_seed(5)
        )
        (question,) = group_images(reference.prior, {}, 1, 512, 1)
        table = reference.tabulate(question.context, question.materials)
        weight = torch.full((13,), 1 / 13)
        found = solve_table(
            table,
            features,
            question.materials,
            question.possible,
            weight,
            num_draws=99,
            generator=torch.Generator().manual_seed(0),
        )
    return defect.numpy(), context, question, found


def tempered(probabilities, power):
    weight = probabilities**power
    return xr.DataArray(weight / weight.sum(-1, keepdims=True), dims=("patch", "defect_class"))


def gap(probabilities, defect):
    """Log score plus entropy in standard errors: zero if exact, negative if too narrow."""
    log = np.log(probabilities.values.clip(1e-30))
    difference = log[np.arange(len(defect)), defect] - (probabilities.values * log).sum(-1)
    return difference.mean() / (difference.std() / len(defect) ** 0.5)


def test_exact_too_narrow_and_too_wide_posteriors_are_told_apart(calibrated):
    defect, _, _, found = calibrated
    probabilities = found.defect.numpy().astype(float)
    assert abs(gap(tempered(probabilities, 1.0), defect)) < 3
    assert gap(tempered(probabilities, 2.0), defect) < -5
    assert gap(tempered(probabilities, 0.5), defect) > 5
    scores = [
        float(bc.log_score(tempered(probabilities, p), defect).mean()) for p in (0.5, 1.0, 2.0)
    ]
    assert scores[1] == max(scores)


def test_ranks_of_the_class_are_uniform(calibrated):
    """Simulation-based calibration of the class: randomised probability integral transform."""
    defect, _, _, found = calibrated
    probabilities = found.defect.numpy().astype(float)
    rng = np.random.default_rng(0)
    at = np.arange(len(defect))
    below = probabilities.cumsum(-1)[at, defect] - probabilities[at, defect] * rng.random(
        len(defect)
    )
    assert kstest(below, "uniform").pvalue > 0.01
    narrow = tempered(probabilities, 3.0).values
    below = narrow.cumsum(-1)[at, defect] - narrow[at, defect] * rng.random(len(defect))
    assert kstest(below, "uniform").pvalue < 0.01


@pytest.mark.parametrize("name", ["inner_collection_angle", "beam_energy"])
def test_ranks_of_a_continuous_latent_are_uniform(name, calibrated):
    _, context, question, found = calibrated
    draws = question.context[name][0][found.draw].numpy()
    ranks = (draws < context[name].numpy()[:, None]).sum(-1)
    u = (ranks + np.random.default_rng(1).random(len(ranks))) / 100
    assert kstest(u, "uniform").pvalue > 0.01
    # as if the posterior were half as wide about its mean
    narrow = draws.mean(-1, keepdims=True) + (draws - draws.mean(-1, keepdims=True)) / 2
    ranks = (narrow < context[name].numpy()[:, None]).sum(-1)
    assert kstest((ranks + 0.5) / 100, "uniform").pvalue < 0.01


def test_a_wrong_claim_is_told(reference):
    """The context as it is, then another detector: the evidence against it, and a warning."""
    prior = bc.reference_prior().given({"host": "MoS2", "dopant": "W"} | CONDITIONS)
    image = bc.simulate_micrograph(prior, seed=2, num_pixels=160, sampling=0.25).intensity
    claims = {n: v for n, v in CONDITIONS.items() if n != "dose"} | {"host": "MoS2", "dopant": "W"}
    wrong = claims | {"inner_collection_angle": 30.0}
    right = bc.infer(image, claims, reference, likelihood="network")["sample_stats"].conflict
    with pytest.warns(UserWarning, match="the image speaks against inner_collection_angle = 30"):
        other = bc.infer(image, wrong, reference, likelihood="network")["sample_stats"].conflict
    assert set(right.claim.values) == {*claims, "detector"}
    assert right.attrs["units"] == "nat"
    assert float(right.max()) < reference.card["conflict_limit"]
    assert float(other.sel(claim="detector")) > 10


@pytest.mark.parametrize("kind", ["patches", "micrograph"])
@pytest.mark.parametrize(("progress", "is_shown"), [(True, True), (False, False), (None, False)])
def test_progress_of_the_network_is_shown_where_asked_for(
    kind, progress, is_shown, untrained, capsys
):
    if kind == "patches":
        data = bc.simulate(untrained.prior, 3, seed=1)
    else:
        bright = untrained.prior.given({"host": "WSe2", "dose": 1e5})
        data = bc.simulate_micrograph(bright, seed=1, num_pixels=128, sampling=0.2)
    options = {"likelihood": "auto" if kind == "patches" else "network", "progress": progress}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bc.infer(data.intensity, {"host": "WSe2"}, untrained, num_draws=16, **options)
    shown = capsys.readouterr()
    # standard error is no terminal here
    assert (("patches:" if kind == "patches" else "sites:") in shown.err) == is_shown
    assert is_shown or not shown.err
    assert not shown.out


def test_the_limit_of_conflicts_is_what_true_claims_hardly_exceed(untrained):
    model = untrained.with_prior(untrained.prior)
    model.card = {}
    found = fit_conflict(model, num_images=8, progress=False)
    assert found.dims == ("image", "claim")
    assert found.shape == (8, 8)
    assert "dose" not in found.claim.values
    assert model.card["conflict_limit"] == pytest.approx(float(found.max("claim").quantile(0.99)))


@pytest.fixture
def taught(untrained):
    """A model that finds every third patch strange."""
    model = untrained.with_prior(untrained.prior)
    model.card = {"surprise_limit": 0.0}
    model.outliers.forward = lambda hidden: torch.tensor([-1.0, -2.0, 3.0])[
        torch.arange(len(hidden)) % 3
    ][:, None]
    return model


def test_surprise_is_reported_for_every_patch(taught):
    data = bc.simulate(bc.reference_prior(), 3, seed=0)
    found = infer(data.intensity, {}, taught, num_draws=4)["sample_stats"].surprise
    assert found.dims == ("image", "patch")
    assert (found.attrs["units"], found.attrs["limit"]) == ("nat", 0.0)
    assert found.values.ravel().tolist() == [-1.0, -2.0, 3.0]


def test_an_image_of_outliers_is_warned_of(taught):
    taught.card["surprise_limit"] = -1.5
    data = bc.simulate(bc.reference_prior(), 3, seed=0)
    with pytest.warns(
        UserWarning, match="67 % of the patches look like nothing that the model was trained for"
    ) as told:
        infer(data.intensity, {}, taught, num_draws=4)
    # the line that is shown is the user's, not one of the package or of a decorator
    assert {w.filename for w in told} == {__file__}


def test_patches_of_images_have_conflicts_of_their_own(untrained):
    images = bc.simulate(bc.reference_prior(), 2, seed=3).intensity.values[:, None].repeat(3, 1)
    energy = xr.DataArray([60e3, 80e3], dims="image")
    result = infer(
        xr.DataArray(images, dims=("image", "patch", "y", "x")),
        {"beam_energy": energy},
        untrained,
        num_draws=8,
    )
    assert result["sample_stats"].conflict.dims == ("image", "claim")
    assert list(result["sample_stats"].claim.values) == ["beam_energy"]


def test_the_default_precision_of_torch_does_not_matter(patches, micrograph, reference):
    limit = bc.simulate(bc.limit_prior(), 1, seed=0)
    told = limit[["host", "dopant", *CONTINUOUS]]

    def solve():
        return [
            infer(patches.intensity, {"host": "WSe2"}, reference, num_draws=16),
            infer(micrograph.intensity, {"host": "WSe2"}, reference, num_draws=16),
            infer(limit.intensity, told, bc.ExactModel(num_draws=16), num_draws=4),
        ]

    single = solve()
    torch.set_default_dtype(torch.float64)
    try:
        double = solve()
    finally:
        torch.set_default_dtype(torch.float32)
    for first, second in zip(single, double, strict=True):
        xr.testing.assert_identical(first["class_posterior"], second["class_posterior"])


def test_what_lies_under_a_mask_changes_nothing(micrograph, untrained):
    """No site is reported in the corner, whatever it holds; the others are equal bit for bit."""
    mask = np.zeros(micrograph.intensity.shape, bool)
    mask[:40, :50] = True
    results = []
    for content in (0.0, np.nan, 1e30):
        values = np.where(mask, content, micrograph.intensity.values)
        masked = np.ma.masked_array(values, mask)
        results.append(infer(masked, {"host": "WSe2"}, untrained, num_draws=8))
        given = infer(values, {"host": "WSe2"}, untrained, num_draws=8, valid=~mask)
        xr.testing.assert_identical(given["class_posterior"], results[-1]["class_posterior"])
    for other in results[1:]:
        xr.testing.assert_identical(other["class_posterior"], results[0]["class_posterior"])
    sites = results[0]["constant_data"]
    assert not ((sites.site_y < 40) & (sites.site_x < 50)).any()
    whole = infer(micrograph.intensity, {"host": "WSe2"}, untrained, num_draws=8)
    assert 0.6 < sites.sizes["patch"] / whole["constant_data"].sizes["patch"] < 0.9


SHARES = {"Y_X": 0.0, "V_X": 0.2, "O_X": (0.0, 0.1)}


def test_a_class_that_cannot_be_has_no_probability(micrograph, reference):
    """The simulator under the same evidence has no such site either."""
    known = MATERIAL | CONDITIONS | {"abundance": SHARES}
    prior = bc.reference_prior().given(known)
    drawn = bc.simulate_micrograph(prior, seed=1, num_pixels=120, sampling=0.25)
    assert "Y_X" not in drawn.defect.values
    result = bc.infer(drawn.intensity, known, reference, num_draws=50, likelihood="network")
    found = result["class_posterior"].defect
    assert (found.sel(defect_class="Y_X") == 0).all()
    assert np.allclose(found.sum("defect_class"), 1, atol=1e-5)
    assert (result["posterior"].defect != bc.DEFECTS.index("Y_X")).all()
    abundance = result["posterior"].concentration
    assert (abundance.sel(defect_class="Y_X") == 0).all()
    assert np.allclose(abundance.sel(defect_class="V_X"), 0.2, rtol=1e-5)
    chalcogen = abundance.sel(defect_class=list(SITES["chalcogen"]))
    assert np.allclose(chalcogen.sum("defect_class"), 1, atol=1e-5)
    assert 0 < float(abundance.sel(defect_class="O_X").mean()) < 0.1
    told = json.loads(result.attrs["context"])["abundance"]
    assert told == {"V_X": 0.2, "O_X": {"Uniform": [0.0, 0.1]}, "Y_X": 0.0}
    assert "abundance" in result["sample_stats"].claim
    free = bc.infer(
        drawn.intensity, MATERIAL | CONDITIONS, reference, num_draws=50, likelihood="network"
    )
    assert float(free["class_posterior"].defect.sel(defect_class="Y_X").sum()) > 0.01


def test_a_known_share_moves_what_the_image_leaves_open(micrograph, reference):
    """More vacancies expected, more found: the odds of a site follow those of the shares."""
    expected = []
    for share in (0.001, 0.01, 0.1, 0.4):
        known = MATERIAL | CONDITIONS | {"abundance": {"V_X": share}}
        result = infer(micrograph.intensity, known, reference, num_draws=8)
        expected.append(float(result["class_posterior"].defect.sel(defect_class="V_X").sum()))
    assert np.all(np.diff(expected) > 0)


def test_an_undoped_crystal_has_no_dopant(micrograph, reference, tmp_path):
    known = {"host": "WSe2", "dopant": None} | CONDITIONS
    result = bc.infer(micrograph.intensity, known, reference, num_draws=20, likelihood="network")
    assert (result["class_posterior"].defect.sel(defect_class="D_M") == 0).all()
    assert (result["class_posterior"].dopant == 0).all()
    assert (result["posterior"].concentration.sel(defect_class="D_M") == 0).all()
    assert (result["posterior"].defect != bc.DEFECTS.index("D_M")).all()
    assert "dopant_at_site" not in result["class_posterior"]
    assert "dopant" not in result["posterior"]
    assert "dopant" not in result["prior"]
    assert result["constant_data"].dopant.item() == "none"
    assert json.loads(result.attrs["context"])["dopant"] is None
    loaded = bc.load(bc.save(result, tmp_path / "result.nc"))
    assert loaded.attrs == result.attrs
    assert loaded["constant_data"].dopant.item() == "none"
    same = known | {"dopant": "none"}
    again = bc.infer(micrograph.intensity, same, reference, num_draws=20, likelihood="network")
    assert again["class_posterior"].equals(result["class_posterior"])
    del same["dopant"]
    same["abundance"] = {"D_M": 0}
    again = bc.infer(micrograph.intensity, same, reference, num_draws=20, likelihood="network")
    assert again["class_posterior"].equals(result["class_posterior"])


def test_an_image_speaks_against_wrong_abundances(reference):
    """A third of the metal sites holds Ti: the evidence of the image counts as three patches."""
    known = {"host": "WSe2"} | CONDITIONS
    prior = bc.reference_prior().given(known | {"dopant": "Ti", "abundance": {"D_M": 0.3}})
    image = bc.simulate_micrograph(prior, seed=1, num_pixels=120, sampling=0.25).intensity
    found = [
        bc.infer(image, known | {"dopant": d}, reference, num_draws=8, likelihood="network")[
            "sample_stats"
        ].conflict
        for d in (None, "Ti")
    ]
    undoped, doped = (float(c.sel(claim="dopant")) for c in found)
    assert undoped > 0.5 > doped


@pytest.mark.parametrize("known", [{}, {"host": "WSe2"}, {"host": "WSe2"} | CONDITIONS])
def test_some_patches_are_of_undoped_crystals(untrained, known, tmp_path):
    prior = bc.reference_prior().given({"host": "WSe2"} | CONDITIONS)
    patches = bc.simulate(prior, 6, seed=0)
    dopants = np.array([None, "Ti", "V"] * 2)
    result = infer(patches.intensity, known | {"dopant": dopants}, untrained, num_draws=16)
    doped = result["class_posterior"].defect.sel(defect_class="D_M").values
    assert (doped[dopants == None] == 0).all()  # noqa: E711
    assert (doped[dopants != None] > 0).all()  # noqa: E711
    total = result["class_posterior"].dopant.sum("dopant_class").values
    assert np.allclose(total, [0, 1, 1] * 2, atol=1e-6)
    assert result["constant_data"].dopant.values.tolist() == ["none", "Ti", "V"] * 2
    assert json.loads(result.attrs["context"])["dopant"] == dopants.tolist()
    alone = infer(patches.intensity[:1], known | {"dopant": None}, untrained, num_draws=16)
    assert np.allclose(
        alone["class_posterior"].defect, result["class_posterior"].defect[:1], atol=0.1
    )
    bc.load(bc.save(result, tmp_path / "result.nc"))


def test_images_of_several_patches_may_be_undoped(untrained):
    patches = bc.simulate(bc.reference_prior().given({"host": "WSe2"}), 8, seed=0)
    images = patches.intensity.values.reshape(2, 4, 32, 32)
    images = xr.DataArray(images, dims=("image", "patch", "y", "x"))
    known = {"host": "WSe2", "dopant": np.array([None, "Ti"]), "abundance": {"Y_X": 0}}
    result = infer(images, known, untrained, num_draws=16)
    found = result["class_posterior"].defect
    assert (found.sel(defect_class="Y_X") == 0).all()
    assert (found.sel(defect_class="D_M") > 0).all("patch").values.tolist() == [False, True]
    total = result["class_posterior"].dopant.sum("dopant_class").values
    assert total.tolist() == pytest.approx([0, 1], abs=1e-5)


@pytest.mark.parametrize("share", [0.03, (0.0, 0.1), dist.Uniform(0.0, 0.1)])
def test_shares_of_sites_say_nothing_of_patches(patches, untrained, share):
    with pytest.raises(ValueError, match="shares of 0 were expected in the abundance of patches"):
        infer(patches.intensity, {"abundance": {"Y_X": 0, "V_X": share}}, untrained)
