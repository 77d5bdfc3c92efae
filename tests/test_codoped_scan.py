"""Co-doped crystals by all pixels: laws of the sites, recovery, large scans, and whole results."""

import functools
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from crystals import MATERIAL, RINGS, noisy_crystal

import bayesctx as bc
from bayesctx.crystal import METALS
from bayesctx.defects import CODOPED_SPECIES, DEFECTS, DOPED_SPECIES, SPECIES
from bayesctx.inference import whole_image, worlds
from bayesctx.inference.claims import _is_claim
from bayesctx.inference.detectors import check_rings
from bayesctx.metrics import match_sites
from bayesctx.scan import Fitted, Material, Sampled, mosaic as mosaic_module, windows
from bayesctx.scan.chain import Draw, Mode, sample_worlds
from bayesctx.scan.mosaic import cover, spread
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.occupation import draw_occupation
from bayesctx.scan.starts import Start
from bayesctx.scan.view import look
from bayesctx.scan.windows import tile
from bayesctx.scan.world import CLASS, PERFECT, begin

MO = METALS.index("Mo")
BOTH = replace(MATERIAL, codopant=MO)
NUM_PLAIN = len(SPECIES)
NONE = 1e-300  # share of a dopant, so that nothing in an image outweighs it


def codope(scan, world, material=BOTH, share=0.5):
    """The same crystal with room for a second dopant, without errors of additivity."""
    scan = replace(scan, material=material)
    errors = torch.zeros(len(scan.image), material.num_species)
    return scan, replace(world, errors=errors, share_codopant=share)


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def mixed(request):
    """A crystal with Ti and Mo: every third metal column is one of them, in turn."""
    scan, world, view = noisy_crystal(pixels=80, noise=0.03, rings=request.param)
    scan, world = codope(scan, world)
    species = world.species.clone()
    metal = (CLASS[species] == DEFECTS.index("M")).nonzero()[::3, 0]
    species[metal[::2]], species[metal[1::2]] = DOPED_SPECIES, CODOPED_SPECIES
    world = replace(world, species=species)
    noise = torch.randn(view.expected.shape, generator=torch.Generator().manual_seed(7))
    image = look(scan, world).expected + world.floor.sqrt()[:, None, None] * noise
    return replace(scan, image=image), world


def probabilities(scan, world):
    """Of the species of the sites, each given the others, the most probable of each in turn."""
    return draw_occupation(scan, world, look(scan, world), scan.colours(), None)[1]


def test_a_crystal_with_one_dopant_has_no_second_species(mixed):
    scan, world = mixed
    plain = torch.where(world.species == CODOPED_SPECIES, DOPED_SPECIES, world.species)
    single, other = codope(scan, replace(world, species=plain), MATERIAL)
    assert probabilities(single, other).shape[1] == other.errors.shape[1] == NUM_PLAIN
    assert CODOPED_SPECIES not in single.allowed(0).tolist()
    assert CODOPED_SPECIES in scan.allowed(0).tolist()
    assert torch.equal(scan.allowed(1), single.allowed(1))


@pytest.mark.parametrize("metal", ["Ti", "Mo"])
def test_without_one_of_the_dopants_the_crystal_has_the_other(mixed, metal):
    scan, world = mixed
    is_doped = (world.species == DOPED_SPECIES) | (world.species == CODOPED_SPECIES)
    world = replace(world, species=torch.where(is_doped, PERFECT[0], world.species))
    first, second = (METALS.index(m) for m in sorted(("Ti", "Mo"), key=lambda m: m != metal))
    both = Material(MATERIAL.host, first, second)
    found = probabilities(*codope(scan, world, both, NONE))
    expected = probabilities(*codope(scan, world, replace(both, codopant=None)))
    # log likelihoods of some 1e4 nats in single precision
    assert torch.allclose(found[:, :NUM_PLAIN], expected, atol=5e-3)
    assert (found[:, CODOPED_SPECIES] == 0).all()
    assert float(found[:, DOPED_SPECIES].max()) > 0.9


def test_the_order_of_the_dopants_changes_names_only(mixed):
    scan, world = mixed
    scan, world = codope(scan, world, share=0.3)
    turned = torch.where(world.species == DOPED_SPECIES, CODOPED_SPECIES, world.species)
    turned = torch.where(world.species == CODOPED_SPECIES, DOPED_SPECIES, turned)
    other = Material(MATERIAL.host, MO, MATERIAL.dopant)
    given = codope(scan, replace(world, species=turned), other, 0.7)
    assert torch.allclose(look(*given).expected, look(scan, world).expected, atol=1e-4)
    found, again = probabilities(scan, world), probabilities(*given)
    order = list(range(NUM_PLAIN + 1))
    order[DOPED_SPECIES], order[CODOPED_SPECIES] = CODOPED_SPECIES, DOPED_SPECIES
    assert torch.allclose(found, again[:, order], atol=2e-3)


def certainty(world, probability, counted):
    """Probability of the dopant that a site holds, given that it holds one of both."""
    doped = counted & ((world.species == DOPED_SPECIES) | (world.species == CODOPED_SPECIES))
    assert int(doped.sum()) > 8
    both = probability[doped][:, [DOPED_SPECIES, CODOPED_SPECIES]].sum(-1)
    return probability[doped, world.species[doped]] / both.clamp(min=1e-30), both


def test_either_dopant_is_left_for_the_other(mixed):
    """From a world in which each site holds the wrong one."""
    scan, world = mixed
    scales = {n: getattr(world, n) for n in mosaic_module.SCALES}
    wrong = torch.where(world.species == DOPED_SPECIES, CODOPED_SPECIES, world.species)
    wrong = torch.where(world.species == CODOPED_SPECIES, DOPED_SPECIES, wrong)
    begun, colours = replace(world, species=wrong), scan.colours()
    generator, shares, total = torch.Generator().manual_seed(0), [], 0
    for k in range(20):
        begun, probability = draw_occupation(scan, begun, look(scan, begun), colours, generator)
        shares.append(begun.share_codopant)
        # scales that were drawn would take what the sites do not explain yet
        begun = replace(begun, **scales)
        total = total + (probability / 10 if k >= 10 else 0)
    right, both = certainty(world, total, scan.inside)
    assert float(right.mean()) > 0.9
    assert float(both.mean()) > 0.9
    # half of them, under a uniform prior of the share
    assert abs(np.mean(shares[10:]) - 0.5) < 0.25
    assert np.std(shares[10:]) > 0.02


def test_chains_draw_both_dopants(mixed):
    scan, world = mixed
    near = linearise_jointly(scan, world, look(scan, world), 0.1, exactly=False)
    draws = sample_worlds(scan, Mode(world, near, 0.0, (0.0,) * 3), 0)
    for draw in (next(draws) for _ in range(2)):
        assert draw.material == BOTH
        assert draw.probability.shape[1] == NUM_PLAIN + 1
        assert math.isfinite(draw.log_prob)
        assert 0 < draw.world.share_codopant < 1
        held = draw.world.species[scan.inside]
        assert min(int((held == k).sum()) for k in (DOPED_SPECIES, CODOPED_SPECIES)) > 2


def test_windows_of_a_large_scan_share_the_shares_of_both_dopants(mixed, monkeypatch):
    monkeypatch.setattr(windows, "SIDE", 13.0)
    monkeypatch.setattr(windows, "MARGIN", 4.0)
    monkeypatch.setattr(mosaic_module, "WARMUP", 5)
    scan, world = mixed
    values = {n: v[0].tolist() for n, v in scan.coordinates.values(world.z[None]).items()}
    draw = Draw(world, scan.material, values, 1e5, torch.zeros(0), 0.0, torch.zeros(0))
    mosaic = cover(scan, tile(scan), world, 0)
    assert len(mosaic.tiles) > 1
    found = list(spread(mosaic, [draw] * 3, 0))[-1]
    assert found.material == BOTH
    assert found.probability.shape == (len(scan.kind), NUM_PLAIN + 1)
    assert found.world.share_codopant not in (0.5, draw.world.share_codopant)
    right, _ = certainty(world, found.probability, scan.inside)
    assert float(right.mean()) > 0.85


def test_other_claims_are_left_open_of_a_crystal_that_stays_co_doped():
    rings = check_rings({"host": "WSe2", "dopant": "Ti+Mo", "beam_energy": 80e3}, ())
    assert rings.without(("host", "dopant")).shared["dopant"] == bc.Codoped("Ti", "Mo")
    assert not _is_claim(rings, ("dopant",))
    assert _is_claim(rings, ("host",))
    assert "dopant" not in rings.latent()


KNOWN = {
    "host": "WSe2", "beam_energy": 80e3, "convergence_semiangle": 30.0, "dose": 1e5,
    "inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "defocus": 0.0,
    "dopant": bc.Codoped("Ti", "Mo"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    prior = bc.reference_prior().given(KNOWN | {"abundance": {"D_M": 0.25}})
    return bc.simulate_micrograph(prior, seed=6, num_pixels=88, sampling=0.25)


def infer(data, num_draws=40):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mixed chains were expected", UserWarning)
        return bc.infer(data.intensity, KNOWN, likelihood="simulator", num_draws=num_draws)


def fit_nothing(candidates, *, seed):
    """No search: a perfect crystal."""
    scan = candidates[0].scan
    z = torch.zeros(len(scan.coordinates.names), dtype=torch.float64)
    return Fitted(candidates, [Start(0, scan, begin(scan, z), 0.0)])


def draw_worlds(shared_by_draws, fitted, *, num_chains, num_draws, **_):
    """Chains without a search: what patches say the sites hold, with some shares of both."""
    given = fitted.candidates
    scan, species = given[0].scan, given[0].species
    shared_by_draws.append(scan.material)
    z = torch.zeros(len(scan.coordinates.names), dtype=torch.float64)
    values = {n: v[0].tolist() for n, v in scan.coordinates.values(z[None]).items()}
    probability = torch.nn.functional.one_hot(species, NUM_PLAIN + 1).float()
    probability[:, CODOPED_SPECIES] += 0.25 * probability[:, DOPED_SPECIES]
    probability[:, DOPED_SPECIES] *= 0.75
    world, chains = begin(scan, z, species), []
    for _ in range(num_chains):
        own = [replace(world, share_codopant=0.2 + 0.01 * k) for k in range(num_draws)]
        rest = probability, -1.0, torch.zeros(len(scan.image), 2, 2)
        draws = [Draw(w, scan.material, values, 1e5, *rest) for w in own]
        chains.append([(0, d) for d in draws])
    share = np.eye(1, len(given))[0]
    return Sampled(chains, share)


@pytest.fixture(scope="module")
def quick(data):
    """A result of worlds that are given."""
    materials = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "fit_scan", fit_nothing)
        patch.setattr(worlds, "weigh_lattices", lambda *arguments: None)
        patch.setattr(worlds, "signs_in_residuals", lambda *arguments: ())
        patch.setattr(worlds, "sample_scan", functools.partial(draw_worlds, materials))
        patch.setattr(whole_image, "conflict_by_pixels", lambda *arguments: {})
        return infer(data), materials


def test_draws_by_all_pixels_are_written_with_both_dopants(data, quick):
    result, materials = quick
    assert [m.codopant for m in materials] == [MO]
    classes, drawn = (result[n].to_dataset() for n in ("class_posterior", "posterior"))
    doped = classes.defect.sel(defect_class="D_M")
    assert np.allclose(classes.dopant_at_site.sum("dopant_class"), doped, atol=1e-5)
    assert np.array_equal(drawn.dopant_at_site >= 0, drawn.defect == DEFECTS.index("D_M"))
    # patches tell Ti from Mo, and a fourth of the probability of Ti was given to Mo
    shares, true = doped_sites(data, result)
    assert len(true) > 8
    assert np.mean((shares[:, 0] > 0.7) == (true == "Ti")) > 0.9
    assert np.allclose(shares[shares[:, 0] > 0], [0.75, 0.25])
    assert drawn.dopant_share.dims == ("chain", "draw", "codopant")
    mean = drawn.dopant_share.mean(("chain", "draw"))
    assert np.allclose(mean, classes.dopant.sel(dopant_class=["Ti", "Mo"]), atol=1e-4)


def test_several_detectors_share_what_sites_hold(monkeypatch):
    rings = {"low": (32.0, 60.0), "high": (60.0, 200.0)}
    angles = ("inner_collection_angle", "outer_collection_angle")
    named = {n: dict(zip(angles, ring, strict=True)) for n, ring in rings.items()}
    shared = {n: v for n, v in KNOWN.items() if n not in angles}
    prior = bc.reference_prior().given(shared | {"abundance": {"D_M": 0.25}})
    options = {"seed": 6, "num_pixels": 88, "sampling": 0.25}
    scan = bc.simulate_micrograph(prior, **options, detectors=named)
    materials = []
    monkeypatch.setattr(worlds, "fit_scan", fit_nothing)
    monkeypatch.setattr(worlds, "weigh_lattices", lambda *arguments: None)
    monkeypatch.setattr(worlds, "signs_in_residuals", lambda *arguments: ())
    monkeypatch.setattr(worlds, "sample_scan", functools.partial(draw_worlds, materials))
    monkeypatch.setattr(whole_image, "conflict_by_pixels", lambda *arguments: {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = bc.infer(scan.intensity, shared | {"detector": named}, num_draws=40)
    assert [m.codopant for m in materials] == [MO]
    classes = found["class_posterior"].to_dataset()
    doped = classes.defect.sel(defect_class="D_M")
    assert np.allclose(classes.dopant_at_site.sum("dopant_class"), doped, atol=1e-5)
    assert float(doped.sum()) > 3


def test_results_by_all_pixels_survive_their_file(quick, tmp_path):
    result, _ = quick
    assert result["constant_data"].dopant.item() == "Ti+Mo"
    xr.testing.assert_identical(bc.load(bc.save(result, tmp_path / "result.nc")), result)
    rows = bc.counts(result).to_dataframe()
    assert rows.number[["D_M: Ti", "D_M: Mo"]].sum() == pytest.approx(rows.number["D_M"])


def doped_sites(data, result):
    """Of true dopants on sites of a result: the probability of either metal, and which is true."""
    matched, _ = match_sites(data, result)
    shares = result["class_posterior"].dopant_at_site.isel(patch=matched)
    places = np.stack([data.site_y, data.site_x], -1)
    own = result["constant_data"].to_dataset().isel(patch=matched)
    found = np.stack([own.site_y, own.site_x], -1)
    true = data.species.values[np.square(places - found[:, None]).sum(-1).argmin(-1)]
    is_doped = np.isin(true, ["Ti", "Mo"])
    return shares.sel(dopant_class=["Ti", "Mo"]).values[is_doped], true[is_doped]


@pytest.mark.slow
def test_all_pixels_tell_which_dopant_a_site_holds(data):
    """Some ten minutes."""
    found = infer(data, num_draws=80)
    shares, true = doped_sites(data, found)
    own = np.where(true == "Ti", shares[:, 0], shares[:, 1])
    assert (own > 0.5).mean() > 0.9
    assert -np.log2(own.clip(1e-3)).mean() < 0.3
