import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from samples import digest, double_precision

from bayesctx import checks, reference_prior, simulate, simulate_micrograph, tmd_prior
from bayesctx.crystal import HOSTS
from bayesctx.defects import DEFECTS, SITES
from bayesctx.nuisances import NUISANCES
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import PatchStream


@pytest.fixture(scope="module")
def patches():
    return simulate(tmd_prior(), 130, seed=5)


def test_patch_does_not_depend_on_the_window(patches):
    part = simulate(tmd_prior(), 40, seed=5, start=50)
    assert np.array_equal(part.intensity, patches.intensity[50:90])
    assert np.array_equal(part.defect, patches.defect[50:90])
    assert np.array_equal(part.dose, patches.dose[50:90])
    other = simulate(tmd_prior(), 40, seed=6)
    assert not np.array_equal(other.intensity, patches.intensity[:40])


def test_truth_context_and_nuisances_are_stored_by_name(patches):
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
        ({"num_patches": 0, "seed": 0}, "num_patches was expected to be at least 1 and .*, got 0"),
        ({"num_patches": 1, "seed": -1}, "seed was expected"),
        ({"num_patches": 1, "seed": 0, "start": -5}, "start was expected"),
        ({"num_patches": 1, "seed": 2**64}, "seed was expected"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(tmd_prior(), **arguments)


def test_missing_nuisances_are_zero():
    """Models that were trained before a nuisance was known go on simulating without it."""
    prior = reference_prior()
    without = replace(
        prior, nuisances={n: d for n, d in prior.nuisances.items() if not n.startswith("tilt")}
    )
    assert float(simulate(without, 3, seed=0).tilt.max()) == 0
    assert float(simulate(prior, 3, seed=0).tilt.min()) > 0


def test_counts_scale_with_the_dose():
    """Without gain, dark level and interpolation the intensities are whole numbers of electrons."""
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
    # the same scenes; 40 000 electrons in the fainter set: five times sqrt(1.25 / 40 000) = 0.6 %
    assert means[1] / means[0] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed was expected to be at least 0"),
        ({"seed": 0, "index": -1}, "index was expected"),
        ({"seed": 0, "num_pixels": 0}, "num_pixels was expected"),
        (
            {"seed": 0, "num_pixels": 10**9},
            "at most 1000 Å and 8192 pixels was expected, got 10000",
        ),
        ({"seed": 0, "sampling": np.nan}, r"sampling \[Å/px\] was expected between.*got nan"),
        ({"seed": 0, "sampling": -0.2}, "got 512 pixels of -0.2 Å; change"),
    ],
)
def test_impossible_micrographs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_micrograph(tmd_prior(), **arguments)


@pytest.mark.parametrize("seed", [1.5, True, "0", None])
def test_seeds_are_integers_of_any_kind(seed):
    for function in (simulate_micrograph, lambda prior, **k: simulate(prior, 1, **k)):
        with pytest.raises(TypeError, match="seed was expected"):
            function(tmd_prior(), seed=seed)
    assert simulate(tmd_prior(), np.int64(1), seed=np.int64(3)).identical(
        simulate(tmd_prior(), 1, seed=3)
    )


def draws():
    """Numbers of some patches and of a micrograph."""
    prior = reference_prior()
    patches = simulate(prior, 2, seed=1)
    image = simulate_micrograph(prior, seed=1, num_pixels=50)
    return [d[n].values for d in (patches, image) for n in d if d[n].dtype.kind in "fi"]


def test_default_dtype_does_not_matter():
    expected = draws()
    with double_precision():
        found = draws()
        assert torch.get_default_dtype() == torch.float64
    assert digest(*found) == digest(*expected)


@pytest.mark.slow
def test_default_dtype_before_the_import_does_not_matter():
    """Constants and distributions of the package are single precision, too."""
    program = (
        "import torch; torch.set_default_dtype(torch.float64); "
        "from test_datasets import draws; from samples import digest; print(digest(*draws()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == digest(*draws())


def test_sizes_beyond_memory_are_refused_at_once(monkeypatch):
    """The memory of a small machine: 1 MB holds 85 patches three times, and 122 x 122 pixels."""
    with pytest.raises(ValueError, match="num_patches was expected to be at least 1 and at most"):
        simulate(tmd_prior(), 10**12, seed=0)
    monkeypatch.setattr(checks, "_memory", lambda: 1e6)
    fits = r"fits into 0.001 GB of memory was expected, got {}, which take .* GB; choose fewer"
    with pytest.raises(ValueError, match=fits.format("100 patches of 32 x 32 pixels")):
        simulate(tmd_prior(), 100, seed=0)
    with pytest.raises(ValueError, match=fits.format("200 x 200 pixels")):
        simulate_micrograph(tmd_prior(), seed=0, num_pixels=200)
    with pytest.raises(ValueError, match=fits.format("128 patches of 32 x 32 pixels")):
        PatchStream(tmd_prior(), seed=0, batch_size=128)
    assert simulate(tmd_prior(), 2, seed=0).sizes["image"] == 2


@pytest.mark.parametrize("sampling", ["0.2", None, [0.2]])
def test_a_pixel_size_is_a_number(sampling):
    with pytest.raises(TypeError, match=r"a number was expected for sampling \[Å/px\], got"):
        simulate_micrograph(tmd_prior(), seed=0, sampling=sampling)


def test_memory_is_that_of_the_machine_or_of_its_control_group():
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < checks._memory() <= machine
    with pytest.raises(ValueError, match="of memory was expected, got a lot, which take"):
        checks.check_memory(machine + 1, "a lot")


def test_a_prior_is_needed():
    for use in (lambda: simulate("tmd", 2, seed=0), lambda: simulate_micrograph(None, seed=0)):
        with pytest.raises(TypeError, match="a Prior was expected, got .*; use reference_prior()"):
            use()


def test_crystals_have_the_abundances_that_were_given():
    evidence = {"Y_X": 0.0, "V_X": 0.3, "O_X": (0.0, 0.2), "D_M": 0.1, "adatom_M": 0.05}
    prior = reference_prior().given({"abundance": evidence})
    data = simulate(prior, 512, seed=0)
    assert "Y_X" not in data.defect.values
    share = {d: data.concentration.sel(defect_class=d).values for d in DEFECTS}
    for kind in ("metal", "chalcogen"):
        assert np.allclose(sum(share[d] for d in SITES[kind]), 1, atol=1e-5)
    assert (share["Y_X"] == 0).all()
    assert np.allclose(share["V_X"], 0.3, rtol=1e-5)
    assert np.allclose(share["D_M"], 0.1, rtol=1e-5)
    # adatoms have this share of the metal sites, and of the hollow sites
    assert np.allclose(share["adatom_M"], 0.05, rtol=1e-5)
    assert np.allclose(share["hollow"], 0.95, rtol=1e-5)
    oxygen = share["O_X"]
    spread = 0.2 / math.sqrt(12)
    assert abs(float(oxygen.mean()) - 0.1) < 4 * spread / math.sqrt(512)
    assert float(oxygen.std()) == pytest.approx(spread, rel=0.15)
    assert simulate(prior, 3, seed=0, start=5).equals(simulate(prior, 3, seed=0, start=5))


def test_the_dopant_of_an_undoped_crystal_is_none():
    prior = reference_prior().given({"dopant": None, "host": "MoS2"})
    data = simulate(prior, 64, seed=0)
    assert set(data.dopant.values) == {"none"}
    assert "D_M" not in data.defect.values
    assert (data.concentration.sel(defect_class="D_M") == 0).all()
    image = simulate_micrograph(prior, seed=0, num_pixels=64)
    assert str(image.dopant.values) == "none"
    assert "D_M" not in image.defect.values


RINGS = {
    "low": {"inner_collection_angle": 32.0, "outer_collection_angle": 60.0},
    "high": {"inner_collection_angle": 60, "outer_collection_angle": 200.0},
}


def test_detectors_of_one_scan_see_one_crystal_and_one_scan():
    prior = reference_prior().given({"host": "WSe2", "dose": 1e7})
    prior = replace(prior, nuisances=prior.nuisances | {"readout": 0.0, "background": 0.0})
    both = simulate_micrograph(prior, seed=2, num_pixels=96, detectors=RINGS)
    assert both.intensity.dims == ("detector", "y", "x")
    assert both.detector.values.tolist() == ["low", "high"]
    assert both.inner_collection_angle.values.tolist() == [32.0, 60.0]
    assert both.gain.dims == both.dark_level.dims == ("detector",)
    assert both.gain[0] != both.gain[1]
    assert both.dose.dims == both.line_jitter.dims == ()
    assert float(both.convergence_semiangle) <= 32.0
    # alone, the first detector records what it records beside others
    alone = simulate_micrograph(prior, seed=2, num_pixels=96, detectors={"low": RINGS["low"]})
    assert np.array_equal(alone.site_x, both.site_x)
    assert np.array_equal(alone.species, both.species)
    plain = simulate_micrograph(prior.given(RINGS["low"]), seed=2, num_pixels=96)
    assert np.array_equal(alone.intensity[0], plain.intensity)
    assert float(alone.gain[0]) == float(plain.gain)
    # rows of both are displaced together: residuals of a smooth image go with each other
    rows = both.intensity.values - np.roll(both.intensity.values, 1, axis=1)
    assert np.corrcoef(rows[0].ravel(), rows[1].ravel())[0, 1] > 0.8


def test_errors_of_additivity_are_of_each_detector():
    prior = reference_prior().given({"host": "WSe2", "dose": 1e7})
    quiet = prior.nuisances | {"readout": 0.0, "background": 0.0, "dark_level": 0.0, "gain": 1.0}
    ring = RINGS["high"]
    same = {"first": ring, "second": ring}
    found = []
    for size in (0.0, 3.0):
        own = replace(prior, nuisances=quiet | {"additivity": size})
        a, b = simulate_micrograph(own, seed=2, num_pixels=96, detectors=same).intensity.values
        found.append(float((a - b).std() / a.std()))
    # counts differ by their noise only, amplitudes by the errors
    assert found[1] > 1.5 * found[0]


@pytest.mark.parametrize(
    ("detectors", "error", "match"),
    [
        ({}, TypeError, "a mapping of name"),
        ([RINGS["low"]], TypeError, "a mapping of name"),
        ({"low": {"inner_collection_angle": 32.0}}, TypeError, "outer_collection_angle"),
        ({"low": RINGS["low"] | {"outer_collection_angle": [60.0, 70.0]}}, ValueError, "numbers"),
        ({1: RINGS["low"]}, ValueError, "a name and two numbers"),
        ({"low": RINGS["low"] | {"outer_collection_angle": 33.0}}, ValueError, "inner below"),
    ],
)
def test_detectors_that_cannot_be_are_refused(detectors, error, match):
    with pytest.raises(error, match=match):
        simulate_micrograph(reference_prior(), seed=0, num_pixels=64, detectors=detectors)
