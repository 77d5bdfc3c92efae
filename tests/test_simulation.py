from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from bayesctx import column_image, reference_prior, simulate, simulate_micrograph, tmd_prior
from bayesctx.crystal import HOSTS
from bayesctx.defects import DEFECTS, SITES, SPECIES, columns_of
from bayesctx.elements import METALS
from bayesctx.fourier import synthesize
from bayesctx.nuisances import NUISANCES
from bayesctx.prior import CONTINUOUS
from bayesctx.responses import load_table
from bayesctx.simulation import BLOCK, draw_block
from bayesctx.simulation.rendering import BOX
from bayesctx.simulation.scene import KINDS, Scene, draw_species
from bayesctx.simulation.spectra import image_spectra, patch_spectra


@pytest.fixture(scope="module")
def patches():
    return simulate(tmd_prior(), 130, seed=5)


def test_a_patch_does_not_depend_on_what_was_asked_for(patches):
    part = simulate(tmd_prior(), 40, seed=5, start=50)
    assert np.array_equal(part.intensity, patches.intensity[50:90])
    assert np.array_equal(part.defect, patches.defect[50:90])
    assert np.array_equal(part.dose, patches.dose[50:90])
    other = simulate(tmd_prior(), 40, seed=6)
    assert not np.array_equal(other.intensity, patches.intensity[:40])


def test_truth_context_and_nuisances_are_there_by_name(patches):
    assert patches.intensity.dims == ("image", "y", "x")
    assert patches.intensity.shape == (130, 32, 32)
    assert set(CONTINUOUS) | set(NUISANCES) | {
        "host",
        "dopant",
        "sampling",
        "defect",
        "species",
    } <= set(patches.data_vars)
    assert set(patches.defect.values) <= set(DEFECTS)
    assert all(patches[n].attrs["units"] for n in (*CONTINUOUS, *NUISANCES))
    assert bool(np.isfinite(patches.intensity).all())


def test_patches_survive_netcdf(patches, tmp_path):
    patches.to_netcdf(tmp_path / "patches.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "patches.nc"), patches)


def test_classes_are_equally_probable():
    defects = np.concatenate(
        [draw_block(tmd_prior(), 3, b, patches_per_image=64).defect.ravel() for b in range(20)]
    )
    share = np.bincount(defects, minlength=13) / len(defects)
    # 1280 draws: standard error sqrt(1/13 / 1280) = 0.0078, four of them
    assert np.abs(share - 1 / 13).max() < 0.031


def test_images_share_their_context():
    block = draw_block(reference_prior(), 0, 0, patches_per_image=16)
    assert block.intensity.shape == (BLOCK // 16, 16, 32, 32)
    assert block.context["dose"].shape == (BLOCK // 16,)
    assert block.defect.shape == (BLOCK // 16, 16)


def quiet(num=1):
    """Nuisances that do nothing."""
    off = {n: torch.zeros(num) for n in NUISANCES}
    return off | {
        "vibration": torch.ones(num),
        "gain": torch.ones(num),
        "source_size": torch.full((num,), 0.8),
    }


def normal(clean, seed):
    """Standard normal variables for every pixel."""
    return torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def test_patch_is_the_sum_of_its_columns():
    """The batched path of the simulator against column_image on the same columns."""
    image = {
        "host": torch.tensor([list(HOSTS).index("MoS2")]),
        "dopant": torch.tensor([METALS.index("W")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (80e3, 30.0, 60.0, 200.0, 20.0, 1e5), strict=True)
    }
    spectra = image_spectra(image, quiet(), torch.zeros(1, len(SPECIES)), cell=(BOX, BOX))
    species = {
        d: next(i for i, s in enumerate(SPECIES) if s.defect == d)
        for d in ("M", "X2", "D_M", "V_X")
    }
    positions = torch.tensor([[[[[0.0, 0.0], [3.0, 0.5]], [[0.1, 1.8], [2.0, -2.0]]]]])
    scene = Scene(
        positions,
        torch.ones(1, 1, 2, 2),
        torch.tensor([[[[-2.0, 1.0], [1.0, 3.0]]]]),
        torch.tensor([[[species["D_M"], species["V_X"]]]]),
        torch.tensor([[[1.0, 1.0]]]),
    )
    axis = torch.linspace(-4, 4, 9)
    fast = synthesize(patch_spectra(spectra, scene, cell=(BOX, BOX)), axis, axis, cell=(BOX, BOX))[
        0, 0
    ]
    s2, vacancy = columns_of("X2", "MoS2", "W")[0], columns_of("V_X", "MoS2", "W")[0]
    columns = [
        (0.0, 0.0, [("Mo", 0.0)]),
        (3.0, 0.5, [("Mo", 0.0)]),
        (0.1, 1.8, s2),
        (2.0, -2.0, s2),
        (-2.0, 1.0, [("W", 0.0)]),
        (1.0, 3.0, vacancy),
    ]
    slow = column_image(
        columns,
        beam_energy=80e3,
        convergence_semiangle=30.0,
        inner_collection_angle=60.0,
        outer_collection_angle=200.0,
        x=axis.numpy(),
        y=axis.numpy(),
        aberrations={"C10": -20.0},
        source_size=0.8,
        cell=(BOX, BOX),
        interference=False,
    )
    # nothing but the cut at 1.8 1/Å and single precision between them
    assert np.abs(fast.numpy() - slow.values).max() < 1e-3 * slow.values.max()


@pytest.mark.parametrize(
    ("energy", "source", "limit"), [(80e3, 0.9, 0.002), (200e3, 0.8, 0.002), (300e3, 0.5, 0.02)]
)
def test_box_and_bandwidth_of_a_patch_suffice(energy, source, limit):
    """The patch of the simulator against a wide crystal at full bandwidth; gain and offset are free.

    The small cell adds the tails of the probe as a constant; at 300 keV with the smallest source of the prior the cut of
    spatial frequencies shows.
    """
    axis = torch.arange(-4, 4.1, 0.25)
    lattice = [
        (x, y, d)
        for d, shift in (("M", 0.0), ("X2", 1.836))
        for i in range(-9, 10)
        for j in range(-9, 10)
        for x, y in [((i + j / 2) * 3.18, j * 2.754 + shift)]
        if np.hypot(x, y) < 16
    ]
    wide = column_image(
        [(x, y, columns_of(d, "MoS2", "W")[0]) for x, y, d in lattice],
        beam_energy=energy,
        convergence_semiangle=30.0,
        inner_collection_angle=60.0,
        outer_collection_angle=200.0,
        x=axis.numpy(),
        y=axis.numpy(),
        source_size=source,
        cell=(60.0, 60.0),
        interference=False,
    ).values.ravel()
    image = {
        "host": torch.tensor([list(HOSTS).index("MoS2")]),
        "dopant": torch.tensor([METALS.index("W")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (energy, 30.0, 60.0, 200.0, 0.0, 1e5), strict=True)
    }
    spectra = image_spectra(
        image,
        quiet() | {"source_size": torch.tensor([source])},
        torch.zeros(1, len(SPECIES)),
        cell=(BOX, BOX),
    )
    inside = [
        (x, y, d) for x, y, d in lattice if max(abs(x), abs(y)) < BOX / 2 and np.hypot(x, y) < 9.6
    ]
    sites = [torch.tensor([(x, y) for x, y, d in inside if d == kind]) for kind in ("M", "X2")]
    most = max(map(len, sites))
    positions = torch.stack([torch.nn.functional.pad(p, (0, 0, 0, most - len(p))) for p in sites])[
        None, None
    ]
    weights = torch.stack([(torch.arange(most) < len(p)).float() for p in sites])[None, None]
    nothing = torch.zeros(1, 1, 1)
    scene = Scene(positions, weights, torch.zeros(1, 1, 1, 2), nothing.long(), nothing)
    small = (
        synthesize(patch_spectra(spectra, scene, cell=(BOX, BOX)), axis, axis, cell=(BOX, BOX))
        .numpy()
        .ravel()
    )
    matched = np.polyval(np.polyfit(small, wide, 1), small)
    assert np.sqrt(((matched - wide) ** 2).mean() / wide.var()) < limit


def test_neighbours_follow_the_composition():
    concentration = torch.zeros(13)
    concentration[DEFECTS.index("M")], concentration[DEFECTS.index("D_M")] = 0.7, 0.3
    concentration[DEFECTS.index("X2")] = 5.0
    u = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    species, altered = draw_species(u, KINDS.index("metal"), concentration)
    assert {SPECIES[s].defect for s in species.unique()} == {"M", "D_M"}
    # standard error sqrt(0.21 / 4000) = 0.0072
    assert float(altered.float().mean()) == pytest.approx(0.3, abs=0.03)


def test_noise_is_poisson_at_the_dose():
    """Over many noise draws of one scene, counts have a variance equal to their mean."""
    from bayesctx.simulation.rendering import detect

    clean = torch.full((1, 1, 100, 100), 0.02)
    exposure = torch.full((1, 1, 1, 1), 1500.0)
    axis = torch.zeros(1, 1, 100)
    counts = detect(clean, axis, axis, exposure, quiet(), normal(clean, 0))
    # 10 000 pixels of mean 30: standard errors 0.055 and 30 sqrt(2 / 10 000) = 0.42
    assert float(counts.mean()) == pytest.approx(30, abs=0.25)
    assert float(counts.var()) == pytest.approx(30, abs=2.0)


def test_expected_intensity_grows_with_the_dose_and_the_film():
    from bayesctx.simulation.rendering import detect

    clean, axis = torch.full((1, 1, 50, 50), 0.02), torch.zeros(1, 1, 50)
    exposure = torch.full((1, 1, 1, 1), 1e6)
    filmed = detect(
        clean,
        axis,
        axis,
        exposure,
        quiet() | {"background": torch.tensor([0.3])},
        normal(clean, 0),
    )
    # mean 26 000 with relative standard error 1.2e-4
    assert float(filmed.mean()) == pytest.approx(1.3 * 0.02 * 1e6, rel=1e-3)


def test_micrograph_holds_every_site():
    prior = reference_prior().given({"host": "MoS2", "dopant": "W", "dose": 1e5})
    image = simulate_micrograph(prior, seed=2, num_pixels=128, sampling=0.25)
    assert image.intensity.dims == ("y", "x")
    area = (
        HOSTS["MoS2"].lattice_constant ** 2
        * (1 + float(image.strain)) ** 2
        * np.sqrt(3)
        / 2
        * (1 + float(image.drift_y))
    )
    expected = 3 * (128 * 0.25) ** 2 / area
    # a rim of one site around 32 Å: 4 * 32 / 1.8 sites, known to a third
    assert image.sizes["patch"] == pytest.approx(expected, abs=25)
    sites = {
        site: [d for d in image.defect.values if d in classes] for site, classes in SITES.items()
    }
    assert all(len(v) > 0.3 * expected - 25 for v in sites.values())
    again = simulate_micrograph(prior, seed=2, num_pixels=128, sampling=0.25)
    xr.testing.assert_identical(image, again)
    with pytest.raises(ValueError, match="at least 8 Å"):
        simulate_micrograph(prior, seed=0, num_pixels=16, sampling=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_patches": 0, "seed": 0}, "num_patches was expected to be at least 1, got 0"),
        ({"num_patches": 1, "seed": -1}, "seed was expected"),
        ({"num_patches": 1, "seed": 0, "start": -5}, "start was expected"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmd_prior(), **arguments)


def test_table_is_loaded_once():
    assert load_table() is load_table()


def test_tilted_patch_is_the_sum_of_its_sheared_columns():
    """Every species of the simulator, sheared, against column_image of the same column."""
    image = {
        "host": torch.tensor([list(HOSTS).index("WSe2")]),
        "dopant": torch.tensor([METALS.index("Ti")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (80e3, 28.0, 50.0, 180.0, 0.0, 1e5), strict=True)
    }
    tilt = {"tilt": torch.tensor([4.0]), "tilt_azimuth": torch.tensor([0.7])}
    spectra = image_spectra(image, quiet() | tilt, torch.zeros(1, len(SPECIES)), cell=(BOX, BOX))[0]
    axis = torch.arange(-1.5, 1.6, 0.3)
    for response, (defect, alternative) in zip(spectra, SPECIES, strict=True):
        slow = column_image(
            [(0.0, 0.0, columns_of(defect, "WSe2", "Ti")[alternative])],
            beam_energy=80e3,
            convergence_semiangle=28.0,
            inner_collection_angle=50.0,
            outer_collection_angle=180.0,
            x=axis.numpy(),
            y=axis.numpy(),
            source_size=0.8,
            cell=(BOX, BOX),
            tilt=(4.0 * np.cos(0.7), 4.0 * np.sin(0.7)),
            interference=False,
        ).values
        # the cut in frequency, and tan(4 cos 0.7) for tan(4) cos 0.7: 4e-4 of a shift; the closed form of pairs leaves 6 % rms
        limit = 0.06 if len(columns_of(defect, "WSe2", "Ti")[alternative]) == 2 else 2e-3
        assert (
            np.abs(synthesize(response, axis, axis, cell=(BOX, BOX)).numpy() - slow).max()
            <= limit * slow.max()
        )


def test_a_prior_may_leave_nuisances_out():
    """Models that were trained before a nuisance was known go on simulating without it."""
    prior = reference_prior()
    without = replace(
        prior, nuisances={n: d for n, d in prior.nuisances.items() if not n.startswith("tilt")}
    )
    assert float(simulate(without, 3, seed=0).tilt.max()) == 0
    assert float(simulate(prior, 3, seed=0).tilt.min()) > 0


def test_counts_follow_the_poisson_distribution():
    """The histogram of the counts of 40 000 pixels of one expected intensity, by Pearson's chi-square."""
    from scipy.stats import chi2, poisson

    from bayesctx.simulation.rendering import detect

    mean, num = 8.0, 200
    axis = torch.zeros(1, 1, num)
    clean, exposure = torch.full((1, 1, num, num), 0.02), torch.full((1, 1, 1, 1), mean / 0.02)
    counts = detect(clean, axis, axis, exposure, quiet(), normal(clean, 1)).numpy().ravel()
    assert np.array_equal(counts, counts.round())
    edges = np.arange(1, 19)  # 18 and fewer than 1 pooled: at least 11 expected in every bin
    observed = np.bincount(counts.astype(int).clip(1, 18), minlength=19)[edges]
    probability = poisson.pmf(edges, mean)
    probability[0], probability[-1] = poisson.cdf(1, mean), poisson.sf(17, mean)
    statistic = ((observed - counts.size * probability) ** 2 / (counts.size * probability)).sum()
    # one in ten thousand on either side
    assert chi2.ppf(1e-4, len(edges) - 1) < statistic < chi2.ppf(1 - 1e-4, len(edges) - 1)


def test_a_patch_of_the_scan_holds_counts_at_the_stated_dose():
    """Without gain, dark level and interpolation a patch holds whole electrons, as many as the dose says."""
    still = {n: 0.0 for n in NUISANCES} | {
        "vibration": 1.0,
        "gain": 1.0,
        "source_size": 0.8,
        "scan_step": 0.25,
    }
    means = []
    for dose in (1e4, 4e4):
        prior = replace(
            tmd_prior().given({"host": "MoS2", "dopant": "W", "dose": dose}), nuisances=still
        )
        counts = simulate(prior, 64, seed=4).intensity
        assert np.array_equal(counts, np.round(counts))
        means.append(float(counts.mean()))
    # the same scenes; some 40 000 electrons in the fainter set leave sqrt(1.25 / 40 000) = 0.6 %, five of them
    assert means[1] / means[0] == pytest.approx(4, rel=0.03)
