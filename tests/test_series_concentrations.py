import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import betaln
from scipy.stats import beta

import bayesctx as bc
from bayesctx.abundance import Abundance
from bayesctx.series.concentrations import (
    Evidence,
    _moments,
    _prior_of_image,
    weigh_mean_and_spread,
)

PRIOR = (0.5, 9.5)


def evidence_of(with_class, without):
    """What images tell whose sites are of known class."""
    a, b = PRIOR[0] + np.asarray(with_class), PRIOR[1] + np.asarray(without)
    return Evidence.of(a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1)), PRIOR)


def test_the_prior_is_divided_out_of_every_image():
    found = evidence_of([3.0, 0.0, 7.0], [97.0, 80.0, 60.0])
    np.testing.assert_allclose(found.with_class, [3, 0, 7], atol=1e-9)
    np.testing.assert_allclose(found.without, [97, 80, 60], atol=1e-9)
    # an image that says nothing counts for nothing
    nothing = evidence_of([0.0], [0.0])
    np.testing.assert_allclose([nothing.with_class, nothing.without], 0, atol=1e-9)


def test_images_that_say_nothing_leave_the_prior_however_many_they_are():
    nothing = evidence_of(np.zeros(50), np.zeros(50))
    mean, _, _ = weigh_mean_and_spread(nothing, np.random.default_rng(0), 20_000)
    law = beta(*PRIOR)
    # the grid leaves out a part of the prior below 1e-5
    assert mean.mean() == pytest.approx(law.mean(), abs=0.003)
    np.testing.assert_allclose(np.quantile(mean, [0.5, 0.95]), law.ppf([0.5, 0.95]), rtol=0.08)


def test_mean_and_spread_have_their_exact_density():
    counts = np.array([[2.0, 6.0, 12.0], [98.0, 94.0, 88.0]])
    found = Evidence(*counts, PRIOR)
    mean, spread, _ = weigh_mean_and_spread(found, np.random.default_rng(1), 40_000)
    # brute force on another grid: mean and relative spread
    m = np.linspace(0.001, 0.4, 500)[:, None]
    s = np.linspace(0.005, 4.0, 500)[None]
    r = s**2 * m / (1 - m)
    w = 1 / np.minimum(r, 0.95) - 1
    log = np.where(r < 0.95, -(s**2) / 2, -np.inf) + beta(*PRIOR).logpdf(m)
    for n1, n0 in counts.T:
        log = log + betaln(m * w + n1, (1 - m) * w + n0) - betaln(m * w, (1 - m) * w)
    p = np.exp(log - log.max())
    p /= p.sum()
    assert mean.mean() == pytest.approx((p * m).sum(), rel=0.03)
    assert spread.mean() == pytest.approx((p * np.sqrt(m * (1 - m) * r)).sum(), rel=0.05)


@pytest.mark.parametrize("spread", [0.0, 0.04])
def test_intervals_hold_mean_and_spread_of_simulated_series(spread):
    held, num, truth = np.zeros(3), 60, 0.1
    for seed in range(num):
        rng = np.random.default_rng([seed, 7])
        w = truth * (1 - truth) / spread**2 - 1 if spread else 1e9
        share = rng.beta(truth * w, (1 - truth) * w, 21)
        counts = rng.binomial(70, share[:20])
        found = evidence_of(counts.astype(float), 70.0 - counts)
        draws = weigh_mean_and_spread(found, rng, 2000)
        for k, value in enumerate((truth, spread, share[20])):
            low, high = np.quantile(draws[k], [0.05, 0.95])
            held[k] += low <= value <= high
    error = (0.9 * 0.1 / num) ** 0.5
    assert held[0] / num > 0.9 - 3 * error
    assert held[2] / num > 0.9 - 3 * error
    if spread:  # the least spread of the grid is above 0
        assert held[1] / num > 0.9 - 3 * error


def result_of(defects, stated=None, seed=0, num_sites=90):
    """A result whose joint draws have given shares of V_X on the chalcogen sites."""
    rng = np.random.default_rng(seed)
    sublattice = np.arange(num_sites) % 3
    chalcogen = sublattice == 1
    classes = np.array([bc.DEFECTS.index(c) for c in ("M", "X2", "hollow")])[sublattice]
    drawn = np.repeat(classes[None], 200, 0)
    drawn[:, chalcogen] = np.where(
        rng.random((200, chalcogen.sum())) < defects, bc.DEFECTS.index("V_X"), drawn[:, chalcogen]
    )
    shares = np.eye(len(bc.DEFECTS))[classes]
    tree = xr.DataTree.from_dict({
        "posterior": xr.Dataset({
            "defect": (("chain", "draw", "patch"), drawn[None]),
            "concentration": (("chain", "draw", "defect_class"), np.zeros((1, 200, 13))),
        }),
        "class_posterior": xr.Dataset(
            {
                "defect": (("patch", "defect_class"), shares),
                "host": ("host_class", np.eye(12)[0]),
                "dopant": ("dopant_class", np.eye(11)[0]),
                "assignment": ("assignment_class", [1.0]),
            },
            {"assignment_class": ["metal-chalcogen-hollow"]},
        ),
        "sample_stats": xr.Dataset({"ess": 100.0}),
        "constant_data": xr.Dataset({"sublattice": ("patch", sublattice)}),
    })  # fmt: skip
    tree.attrs["context"] = json.dumps(stated or {})
    return tree


def test_a_series_is_summarised_by_class():
    series = {f"image {k}": result_of(0.1 + 0.05 * k, seed=k) for k in range(4)}
    table = bc.summarise(series)
    assert table.attrs["num_images"] == 4
    assert table.image.values.tolist() == list(series)
    row = table.sel(defect_class="V_X")
    assert 0.1 < float(row["mean"]) < 0.25
    for name in ("mean", "spread", "further", "pooled"):
        bounds = [f"{name}_{b}" for b in ("90_low", "50_low", "50_high", "90_high")]
        assert (np.diff([float(row[b]) for b in bounds]) > 0).all()
    assert (
        float(row.pooled_90_high - row.pooled_90_low)
        < float(row.mean_90_high - row.mean_90_low)
        < float(row.further_90_high - row.further_90_low)
    )
    own = row.own.values
    assert (np.diff(own) > 0).all()
    # 30 chalcogen sites, less what is not certain of their classes
    assert (row.effective_sites.values < 31).all()
    assert (row.effective_sites.values > 5).all()
    frame = table.drop_dims("image").to_dataframe()
    assert frame.loc["V_X", "mean"] == float(row["mean"])
    assert (table.to_array() >= 0).all()
    xr.testing.assert_identical(bc.summarise(list(series.values())).drop_vars("image"),
                                table.drop_vars("image"))  # fmt: skip


def test_a_share_that_is_known_stays_as_it_is():
    stated = {"abundance": {"V_X": 0.2, "O_X": 0.0}, "dopant": None}
    row = bc.summarise([result_of(0.2, stated)] * 2)
    for name, value in (("V_X", 0.2), ("O_X", 0.0), ("D_M", 0.0)):
        known = row.sel(defect_class=name)
        assert [float(known[n]) for n in ("mean", "further", "pooled", "spread")] == [
            *3 * [pytest.approx(value, abs=1e-6)],
            0.0,
        ]
        np.testing.assert_allclose(known.own, value, atol=1e-6)


def test_soft_evidence_on_abundances_is_the_prior_of_the_series():
    soft = {"abundance": {"V_X": {"Beta": [2.0, 18.0]}}}
    first, second = _prior_of_image(bc.reference_prior(), soft)[bc.DEFECTS.index("V_X")]
    assert first / (first + second) == pytest.approx(0.1, rel=1e-3)
    with pytest.raises(ValueError, match="the same evidence on abundances were expected"):
        bc.summarise([result_of(0.1), result_of(0.1, soft)])


def test_moments_of_shares_are_those_of_their_draws():
    prior = bc.reference_prior().given({"abundance": {"V_X": 0.1, "O_X": (0.0, 0.1)}})
    abundance = Abundance.of(prior.dirichlet_alpha, prior.abundance)
    generator = torch.Generator().manual_seed(0)
    drawn = abundance.draw(torch.zeros(20_000, 3, len(bc.DEFECTS)), generator).numpy()
    for power in (1, 2):
        expected = (drawn**power).mean(0)
        error = (drawn**power).std(0) / 20_000**0.5
        assert (abs(_moments(abundance, power) - expected) <= 5 * error + 1e-9).all()


def test_the_prior_of_a_plain_series_is_the_dirichlet_one():
    alpha = bc.reference_prior().dirichlet_alpha
    found = _prior_of_image(bc.reference_prior(), {})
    metal = ("M", "D_M", "V_M", "X_M", "X2_M")
    own = found[bc.DEFECTS.index("D_M")]
    rest = sum(v for n, v in alpha.items() if n in (*metal, "adatom_M")) - alpha["D_M"]
    assert own == pytest.approx((alpha["D_M"], rest))


@pytest.fixture
def stack():
    """Two micrographs and an empty one."""
    given = {"host": "WSe2", "dopant": "Ti", "dose": 1e6, "beam_energy": 80e3, "defocus": 0.0}
    prior = bc.reference_prior().given(given | {"inner_collection_angle": 60.0})
    images = [
        bc.simulate_micrograph(prior, seed=2, index=k, num_pixels=112, sampling=0.2).intensity
        for k in range(2)
    ]
    values = np.stack([*(i.values for i in images), np.ones((112, 112), np.float32)])
    return xr.DataArray(values, {"image": ["a", "b", "empty"]}, ("image", "y", "x"))


KNOWN = {"host": "WSe2", "sampling": 0.2}


@pytest.mark.filterwarnings("ignore:the posterior rests on")
def test_a_stack_is_inferred_in_blocks(stack, untrained):
    dask = pytest.importorskip("dask", reason="dask is not installed")
    for chunks in (1, 2):
        lazy = bc.infer_blocks(stack.chunk(image=chunks), KNOWN, untrained, num_draws=32)
        assert lazy["posterior"].concentration.chunks is not None
        with dask.config.set(scheduler="synchronous"):
            found = lazy.compute()
        assert "defect" not in found["posterior"]  # the number of sites differs
        assert found["posterior"].image.values.tolist() == ["a", "b", "empty"]
        one, options = stack[1].drop_vars("image"), {"num_draws": 32, "likelihood": "network"}
        alone = bc.infer(one, KNOWN, untrained, **options)
        for group, name in (("posterior", "concentration"), ("class_posterior", "host")):
            own = found[group].to_dataset()[name].sel(image="b", drop=True)
            xr.testing.assert_identical(own, alone[group].to_dataset()[name])
        message = found["sample_stats"].message.values
        assert message[:2].tolist() == ["", ""]
        assert "every pixel" in message[2]
        assert np.isnan(found["posterior"].dose.sel(image="empty")).all()
        assert (found["posterior"].dopant.sel(image="empty") == -1).all()


@pytest.mark.filterwarnings("ignore:the posterior rests on")
def test_patches_in_blocks_keep_their_classes(untrained):
    pytest.importorskip("dask", reason="dask is not installed")
    patches = bc.simulate(bc.reference_prior(), 3, seed=0).intensity
    found = bc.infer_blocks(patches, {"host": "WSe2"}, untrained, num_draws=32)
    total = found["class_posterior"].defect.sum("defect_class").compute()
    np.testing.assert_allclose(total.values, 1, atol=1e-5)


def test_what_is_no_stack_is_refused(stack, untrained, monkeypatch):
    with pytest.raises(TypeError, match="the dimensions image, y and x was expected"):
        bc.infer_blocks(stack[0], KNOWN, untrained)
    with pytest.raises(TypeError, match="the dimensions image, y and x was expected"):
        bc.infer_blocks(stack.values, KNOWN, untrained)
    with pytest.raises(ValueError, match="'auto', which may choose differently"):
        bc.infer_blocks(stack, KNOWN, untrained, likelihood="auto")
    with pytest.raises(ValueError, match="every pixel"):
        bc.infer_blocks(stack[::-1], KNOWN, untrained)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'bayesctx\[dask\]'"):
        bc.infer_blocks(stack, KNOWN, untrained)
