"""Co-doped crystals: as a value of the context, simulated, and inferred by the network."""

import json
import warnings

import numpy as np
import pyro
import pytest
import torch
import xarray as xr
from pyro import poutine

import bayesctx as bc
from bayesctx import Codoped
from bayesctx.cli.sources import read_context
from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS
from bayesctx.evidence import check_context
from bayesctx.inference import image as image_module, joint
from bayesctx.inference.image import one_image
from bayesctx.model import Materials, SitePrior, mixing, table as table_module
from bayesctx.prior import CONTINUOUS

POINT = dict(zip(CONTINUOUS, (80e3, 28.0, 60.0, 200.0, 0.0, 1e5), strict=True))
DOPED = DEFECTS.index("D_M")
SHARES = {"M": 0.6, "D_M": 0.3, "adatom_M": 0.1, "X2": 0.8, "V_X": 0.2, "hollow": 0.9}
TI, MO = METALS.index("Ti"), METALS.index("Mo")


def test_the_order_of_the_dopants_does_not_count():
    assert Codoped("V", "Ti") == Codoped("Ti", "V")
    assert len({Codoped("V", "Ti"), Codoped("Ti", "V")}) == 1
    assert Codoped("V", "Ti").metals == ("Ti", "V")
    assert repr(Codoped("V", "Ti")) == "Codoped('Ti', 'V')"


@pytest.mark.parametrize("value", [Codoped("Ti", "V"), "Ti+V", " V + Ti", np.array("Ti+V")])
def test_a_co_doped_crystal_may_be_written_as_text(value):
    checked = check_context({"host": "WSe2", "dopant": value})
    assert checked["dopant"] == Codoped("Ti", "V")
    assert check_context(checked) == checked


@pytest.mark.parametrize(("metals", "error", "message"), [
    (("Ti", "Ti"), ValueError, "two different metals were expected of a co-doped crystal, got "),
    (("Ti", "Tj"), ValueError, "unknown dopant of a co-doped crystal 'Tj'"),
    (("Ti", 22), TypeError, "two names of metals were expected of a co-doped crystal, got 22"),
    ((["Ti"], "V"), TypeError, "two names of metals were expected"),
])  # fmt: skip
def test_metals_that_cannot_be(metals, error, message):
    with pytest.raises(error, match=message):
        Codoped(*metals)


@pytest.mark.parametrize(("context", "message"), [
    ({"dopant": [Codoped("Ti", "V"), "Cr"]}, "or one co-doped crystal alone, were expected"),
    ({"dopant": ["Ti+V", None]}, "or one co-doped crystal alone, were expected"),
    ({"dopant": np.array(["Ti", "Ti+V"])}, "or one co-doped crystal alone, were expected"),
    ({"dopant": "Ti+V+Cr"}, "two metals were expected of a co-doped crystal, got 'Ti.V.Cr'"),
    ({"dopant": Codoped("Ti", "W"), "host": "WSe2"}, "two dopants other than the metal of th"),
    ({"dopant": Codoped("Mo", "W"), "host": ["WSe2", "MoS2"]}, "two dopants other than the metal"),
    ({"dopant": Codoped("Ti", "V"), "abundance": {"D_M": 0}}, "a share of D_M above 0, or neither"),
])  # fmt: skip
def test_co_doped_crystals_that_cannot_be(context, message):
    with pytest.raises(ValueError, match=message):
        check_context(context)


def test_a_prior_given_two_dopants_keeps_the_hosts_that_can_have_both():
    prior = bc.reference_prior().given({"dopant": Codoped("Nb", "Ti")})
    assert prior.is_codoped
    assert set(prior.hosts) == {h for h, m in HOSTS.items() if m.metal != "Nb"}
    assert all(prior.dopants[h] == ("Ti", "Nb") for h in prior.hosts)
    assert bc.Prior.from_dict(prior.to_dict()) == prior != bc.reference_prior()
    assert "is_codoped" not in bc.reference_prior().to_dict()
    # what is known later counts
    assert not prior.given({"dopant": "Ti"}).is_codoped
    assert prior.given({"beam_energy": 80e3}).is_codoped
    # with the host known any other metal may be a dopant
    given = bc.reference_prior().given({"host": "WSe2", "dopant": Codoped("Co", "Ti")})
    assert given.dopants == {"WSe2": ("Ti", "Co")}
    with pytest.raises(ValueError, match="two dopants of one of the hosts .* were expected"):
        bc.reference_prior().given({"dopant": Codoped("Mn", "Ta")})


@pytest.mark.parametrize(("dopants", "is_codoped", "error", "message"), [
    (("Ti",), True, ValueError, "two different dopants of WSe2 were expected with is_codoped"),
    (("Ti", "Ti"), True, ValueError, "two different dopants of WSe2 were expected"),
    (("Ti", "V"), 1, TypeError, "is_codoped was expected as True or False, got 1"),
])  # fmt: skip
def test_co_doped_priors_that_cannot_be(dopants, is_codoped, error, message):
    with pytest.raises(error, match=message):
        bc.Prior((POINT,), ("WSe2",), {"WSe2": dopants}, is_codoped=is_codoped)


CODOPED = {"host": "WSe2", "dopant": Codoped("Ti", "Mo")} | POINT


@pytest.fixture(scope="module")
def data():
    prior = bc.reference_prior().given(CODOPED | {"abundance": {"D_M": 0.2}})
    return bc.simulate_micrograph(prior, seed=6, num_pixels=120, sampling=0.2)


def test_simulated_sites_hold_either_dopant(data):
    assert data.dopant.item() == "Ti+Mo"
    doped = data.species.values[data.defect.values == "D_M"]
    number = [int((doped == metal).sum()) for metal in ("Ti", "Mo")]
    assert sum(number) == len(doped) > 10
    assert min(number) > 1
    share = data.dopant_share.sel(codopant="Mo").item()
    assert data.dopant_share.sum().item() == pytest.approx(1)
    assert abs(number[1] - share * len(doped)) < 3 * (share * (1 - share) * len(doped)) ** 0.5


def test_a_lighter_dopant_is_darker(data):
    """The column of the second dopant is that of its metal."""
    y, x = (data[n].values.round().astype(int) for n in ("site_y", "site_x"))
    inside = (np.minimum(y, x) > 2) & (np.maximum(y, x) < 117)
    brightness = data.intensity.values[y[inside], x[inside]]
    species = data.species.values[inside]
    mean = {s: brightness[species == s].mean() for s in ("Ti", "Mo", "W")}
    assert mean["Ti"] < 0.8 * mean["Mo"] < 0.8 * 0.8 * mean["W"]


def test_patches_are_simulated_with_one_dopant():
    prior = bc.reference_prior().given(CODOPED)
    with pytest.raises(ValueError, match="one dopant in each crystal was expected for patches"):
        bc.simulate(prior, 2, seed=0)
    with pytest.raises(ValueError, match="one dopant in each crystal was expected for patches"):
        bc.simulation.PatchStream(prior, seed=0)
    with pytest.raises(ValueError, match="one dopant in each crystal was expected for patches"):
        bc.simulation.draw_block(prior, 0, 0)


def infer(image, context, **options):
    return bc.infer(image, context, likelihood="network", **{"num_draws": 200} | options)


@pytest.fixture(scope="module")
def result(data):
    return infer(data.intensity, CODOPED, num_draws=2000)


def test_each_site_has_a_probability_of_either_dopant(data, result):
    found = result["class_posterior"].to_dataset()
    assert np.allclose(found.dopant_at_site.sum("dopant_class"), found.defect[:, DOPED], atol=1e-6)
    others = found.dopant_at_site.drop_sel(dopant_class=["Ti", "Mo"])
    assert (others == 0).all()
    sites = bc.sites(result).to_dataframe()
    matched, truth = bc.metrics.match_sites(data, result)
    right = sites.species.values[matched] == _species(data, result, matched)
    assert right[truth == "D_M"].mean() > 0.9


def _species(data, result, matched):
    """True species of the sites of a result."""
    places = np.stack([data.site_y, data.site_x], -1)
    sites = np.stack([result["constant_data"][n].values[matched] for n in ("site_y", "site_x")], -1)
    nearest = np.square(places - sites[:, None]).sum(-1).argmin(-1)
    return data.species.values[nearest]


def test_draws_say_which_dopant_a_site_holds(result):
    drawn, found = result["posterior"].to_dataset(), result["class_posterior"].to_dataset()
    assert "dopant" not in drawn
    assert drawn.dopant_at_site.dims == ("chain", "draw", "patch")
    held = drawn.dopant_at_site.values[0]
    assert np.array_equal(held >= 0, drawn.defect.values[0] == DOPED)
    assert set(np.unique(held)) == {-1, TI, MO}
    for metal in (TI, MO):
        share = found.dopant_at_site.values[:, metal].astype(float)
        expected = share * (1 - share) / len(held) + 2e-3**2
        assert (((held == metal).mean(0) - share) ** 2).sum() / expected.sum() < 2
    shares = drawn.dopant_share
    assert shares.codopant.values.tolist() == ["Ti", "Mo"]
    assert np.allclose(shares.sum("codopant"), 1, atol=1e-6)
    expected = found.dopant.sel(dopant_class=["Ti", "Mo"]).values
    assert np.allclose(shares.mean(("chain", "draw")), expected, atol=4 * 0.29 / 2000**0.5)


def test_results_of_a_co_doped_crystal_survive_their_file(result, tmp_path):
    assert result["constant_data"].dopant.item() == "Ti+Mo"
    assert json.loads(result.attrs["context"])["dopant"] == "Ti+Mo"
    xr.testing.assert_identical(bc.load(bc.save(result, tmp_path / "result.nc")), result)


def test_tables_name_the_dopant_of_a_site(result, tmp_path):
    rows = bc.counts(result).to_dataframe()
    parts = rows.number[["D_M: Ti", "D_M: Mo"]]
    assert parts.sum() == pytest.approx(rows.number["D_M"])
    atoms = bc.export(result, tmp_path / "atoms.xyz").read_text().splitlines()
    assert "dopant=Ti+Mo" in atoms[1]
    sites = bc.sites(result).to_dataframe()
    for metal in ("Ti", "Mo"):
        number = ((sites.defect == "D_M") & (sites.species == metal)).sum()
        assert sum(line.startswith(f"{metal} ") for line in atoms) == number > 1


def test_predicted_images_have_both_dopants(result):
    images = bc.predict_images(result, num_draws=8, seed=0).mean(("chain", "draw")).values
    y, x = (
        np.clip(result["constant_data"][n].values.round().astype(int), 0, 119)
        for n in ("site_y", "site_x")
    )
    shares = result["class_posterior"].dopant_at_site.values
    ti, mo = (images[y[shares[:, k] > 0.7], x[shares[:, k] > 0.7]] for k in (TI, MO))
    assert min(len(ti), len(mo)) > 1
    assert ti.max() < mo.min()


def test_a_report_shows_both_dopants(result, tmp_path):
    pytest.importorskip("matplotlib")
    text = bc.write_report(result, tmp_path / "report.html").read_text()
    assert "Ti+Mo" in text


def test_plots_of_arviz_have_the_shares(result):
    arranged = bc.to_arviz(result, num_predicted=0)
    assert arranged["posterior"]["dopant_share"].sizes["codopant"] == 2


def test_the_order_of_the_dopants_changes_nothing(data, result):
    other = CODOPED | {"dopant": Codoped("Mo", "Ti")}
    again = infer(data.intensity, other, num_draws=2000)
    xr.testing.assert_identical(again, result)


def test_an_open_host_is_inferred_with_both_dopants(data):
    known = {n: v for n, v in CODOPED.items() if n != "host"}
    found = infer(data.intensity, known)["class_posterior"].to_dataset()
    assert found.host.sel(host_class="MoSe2") == 0
    assert np.allclose(found.dopant_at_site.sum("dopant_class"), found.defect[:, DOPED], atol=1e-5)
    assert float(found.dopant.sum()) == pytest.approx(1, abs=1e-5)


def patches(number=6):
    prior = bc.reference_prior().given({"host": "WSe2", "dopant": "Ti"} | POINT)
    return bc.simulate(prior, number, seed=3).intensity


def test_patches_of_their_own_have_either_dopant_with_equal_probability():
    """One site tells no more of the shares than their mean: as for two candidates."""
    known = {"host": "WSe2"} | {n: v for n, v in POINT.items() if n != "defocus"}
    both, either = (
        infer(patches(), known | {"dopant": d}) for d in (Codoped("Ti", "Mo"), ["Ti", "Mo"])
    )
    for name in ("defect", "outcome"):
        assert both["class_posterior"][name].equals(either["class_posterior"][name])
    found = both["class_posterior"].to_dataset()
    doped = found.defect[..., DOPED]
    assert np.allclose(found.dopant_at_site.sum("dopant_class"), doped, atol=1e-6)
    # the expected share of a dopant is between 1/3, where the site holds the other one, and 2/3
    own = found.dopant_at_site.isel(dopant_class=[TI, MO]).values[:, 0]
    expected = 0.5 + (own - own[:, ::-1]) / 6
    assert np.allclose(found.dopant.isel(dopant_class=[TI, MO]), expected, atol=1e-5)
    drawn = both["posterior"].to_dataset()
    assert np.array_equal(drawn.dopant_at_site >= 0, drawn.defect == DOPED)


def test_images_of_several_patches_have_shares_of_their_own():
    values = patches(6).values.reshape(2, 3, 32, 32)
    image = xr.DataArray(values, dims=("image", "patch", "y", "x"))
    found = infer(image, {"dopant": Codoped("Ti", "Mo"), "host": "WSe2"} | POINT)
    drawn, classes = (found[n].to_dataset() for n in ("posterior", "class_posterior"))
    assert drawn.dopant_share.dims == ("chain", "draw", "image", "codopant")
    assert drawn.dopant_at_site.dims == ("chain", "draw", "image", "patch")
    doped = classes.defect.sel(defect_class="D_M")
    assert np.allclose(classes.dopant_at_site.sum("dopant_class"), doped, atol=1e-6)


def test_sites_without_crystal_have_both_dopants_of_the_prior(data):
    image = data.intensity.copy()
    rng = np.random.default_rng(0)
    image[:, :36] = rng.poisson(2.0, (120, 36))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = infer(image, CODOPED)
    absent = found["constant_data"].crystal.values == 0
    assert absent.any()
    drawn, classes = (found[n].to_dataset() for n in ("posterior", "class_posterior"))
    assert np.array_equal(drawn.dopant_at_site >= 0, drawn.defect == DOPED)
    doped = classes.defect.sel(defect_class="D_M")
    assert np.allclose(classes.dopant_at_site.sum("dopant_class"), doped, atol=1e-6)
    assert (classes.dopant_at_site.sel(dopant_class=["Ti", "Mo"])[absent] > 0).all()


def test_an_exact_model_takes_a_co_doped_crystal():
    prior = bc.limit_prior()
    known = {"host": "WSe2"} | POINT
    image = bc.simulate(prior.given(known | {"dopant": "Ti"}), 1, seed=0).intensity
    found = bc.infer(image, known | {"dopant": "Ti+Mo"}, bc.ExactModel(prior), num_draws=20)
    doped = found["class_posterior"].defect[..., DOPED]
    at_site = found["class_posterior"].dopant_at_site
    assert np.allclose(at_site.sum("dopant_class"), doped, atol=1e-6)


def solved(model, features, sublattice, prior, correlation=0.0):
    """Posterior of an image of several patches."""
    materials = Materials.of(prior)
    table = model.tabulate({n: torch.tensor([v]) for n, v in POINT.items()}, materials)
    sites = SitePrior.of_lattice(prior, sublattice)
    possible = torch.ones(1, dtype=torch.bool)
    return one_image(table, features, materials, possible, sites, correlation)


@pytest.fixture(scope="module")
def drawn(untrained):
    """A co-doped prior with known abundances, nine sites of it, and their features."""
    prior = bc.Prior((POINT,)).given({"abundance": SHARES, "dopant": "Ti+Mo", "host": "WSe2"})
    sublattice = torch.arange(9) % 3
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        features = untrained.with_prior(prior)(sublattice=sublattice, num_patches=9)[0]
    return prior, sublattice, features


@torch.no_grad()
def test_the_network_sums_over_the_shares_as_the_program_does(untrained, drawn):
    prior, sublattice, features = drawn
    fast = solved(untrained, features, sublattice, prior)
    model, classes, weights = untrained.with_prior(prior), [], []
    for share, weight in zip(mixing.SHARES[:, 1], mixing.SHARE_WEIGHT, strict=True):
        fixed = pyro.condition(model, {"dopant_share": share.view(1, 1)})
        trace = poutine.trace(poutine.enum(fixed, first_available_dim=-3)).get_trace(
            features[None], sublattice=sublattice
        )
        trace.compute_log_prob()
        of_image, of_patch = (
            sum(trace.nodes[n]["log_prob"] for n in names)
            for names in (("condition", "host", "assignment"), ("dopant", "defect", "contrast"))
        )
        dims = [trace.nodes[n]["infer"]["_enumerate_dim"] for n in ("dopant", "defect")]
        assignment = trace.nodes["assignment"]["infer"]["_enumerate_dim"]
        joint_density = torch.broadcast_tensors(of_image, of_patch)[1]
        by_class = joint_density.logsumexp(dims[0], keepdim=True)
        evidence = by_class.logsumexp(dims[1], keepdim=True)
        others = evidence.sum(-1, keepdim=True) - evidence
        total = (of_image + by_class + others).movedim((dims[1], assignment), (0, 1))
        total = total.flatten(1, -2).logsumexp(1)  # (class, patch)
        weights.append(total.logsumexp(0)[0] + weight.log())
        classes.append(total.softmax(0).T)
    weight = torch.stack(weights).softmax(0)
    slow = torch.einsum("j,jpk->pk", weight, torch.stack(classes))
    assert torch.allclose(fast.classes.defect, slow, atol=1e-4)
    at_site = fast.classes.dopant_at_site
    assert torch.allclose(at_site.sum(-1), fast.classes.defect[:, DOPED], atol=1e-6)
    expected = float(weight @ mixing.SHARES[:, 1])
    assert float(fast.material[0, 1]) == pytest.approx(expected, abs=1e-4)
    assert abs(expected - 0.5) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("own", [0, 1])
def test_with_all_of_one_dopant_the_crystal_has_this_dopant(untrained, drawn, own, monkeypatch):
    prior, sublattice, features = drawn
    one = torch.eye(2)[own : own + 1]
    for module in (image_module, joint, mixing):
        monkeypatch.setattr(module, "SHARES", one)
    monkeypatch.setattr(table_module, "SHARE_WEIGHT", torch.ones(1))
    found = solved(untrained, features, sublattice, prior).classes
    single = prior.given({"dopant": prior.dopants["WSe2"][own]})
    expected = solved(untrained, features, sublattice, single).classes
    assert torch.allclose(found.defect, expected.defect, atol=1e-5)
    assert torch.allclose(found.dopant_at_site, expected.dopant_at_site, atol=1e-5)


def test_targets_of_information_are_without_the_dopant():
    found = infer(patches(), {"dopant": "Ti+Mo", "host": "WSe2"} | POINT)
    truth = bc.simulate(bc.reference_prior().given({"host": "WSe2", "dopant": "Ti"} | POINT), 6,
                        seed=3)  # fmt: skip
    bc.measure_information({"both": found}, truth, targets=["species_host"])
    with pytest.raises(ValueError, match="without the dopant was expected of a co-doped crystal"):
        bc.measure_information({"both": found}, truth, targets=["whole"])


def test_a_series_takes_a_co_doped_crystal(data, tmp_path):
    (tmp_path / "scans").mkdir()
    np.save(tmp_path / "scans" / "one.npy", data.intensity.values)
    options = {"likelihood": "network", "num_draws": 20}
    bc.infer_series(tmp_path / "scans", tmp_path / "results", CODOPED, **options)
    series = bc.open_series(tmp_path / "results")
    assert series["one.npy"]["constant_data"].dopant.item() == "Ti+Mo"
    bc.summarise(tmp_path / "results")


def test_a_command_takes_a_co_doped_crystal():
    given = read_context(["host=WSe2", "dopant=Ti+V"])
    assert check_context(given)["dopant"] == Codoped("Ti", "V")
