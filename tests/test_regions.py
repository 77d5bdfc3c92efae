"""Where there is crystal in an image, and where there is none."""

import numpy as np
import pytest
from drawing import draw_image

from bayesctx import reference_prior, simulate_micrograph
from bayesctx.crystal import HOSTS
from bayesctx.micrograph import find_crystal, find_sites, fit_lattice, standardize


def locate(image):
    lattice = fit_lattice(image)
    positions, _ = find_sites(lattice, image.shape, margin=0)
    return lattice, positions, find_crystal(standardize(image), lattice, positions)


def simulated(seed, dose, sampling=0.2, **context):
    context = {"host": list(HOSTS)[seed % 12], "dose": dose} | context
    prior = reference_prior().given(context)
    return simulate_micrograph(prior, seed=seed, num_pixels=256, sampling=sampling).intensity.values


def depth(name, shape, constant):
    """Distance in px from the edge of a part without crystal, positive inside."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return {
        "beside a flake": lambda: x - 0.66 * shape[1],
        "hole": lambda: 2.75 * constant - np.hypot(y - 0.5 * shape[0], x - 0.5 * shape[1]),
        "slit": lambda: (
            1.7 * constant - abs(0.6 * (y - 0.4 * shape[0]) + 0.8 * (x - 0.5 * shape[1]))
        ),
        "padding": lambda: np.maximum(2.5 * constant - y, x - shape[1] + 2.5 * constant),
    }[name]()


FILLS = {
    "vacuum": lambda image, rng: rng.poisson(0.5 * max(np.percentile(image, 1), 0.1), image.shape),
    "nothing": lambda image, rng: np.zeros(image.shape),
    "saturation": lambda image, rng: np.full(image.shape, image.max()),
    "film": lambda image, rng: rng.normal(image.mean(), 0.3 * image.std(), image.shape),
}


@pytest.mark.parametrize("name", ["beside a flake", "hole", "slit", "padding"])
@pytest.mark.parametrize("fill", FILLS)
def test_sites_without_crystal_are_found(name, fill):
    """All but those within half a cell of the edge, and nothing else."""
    caught, missed, beyond, found = 0, 0, 0, 0
    for seed in (3, 6, 8):
        image = simulated(seed, 1e5)
        image = image - image.min()
        constant = HOSTS[list(HOSTS)[seed]].lattice_constant / 0.2
        inside = depth(name, image.shape, constant)
        image = np.where(inside > 0, FILLS[fill](image, np.random.default_rng(seed)), image)
        lattice, positions, crystal = locate(image)
        assert crystal.visible
        index = np.rint(positions).astype(int).clip(0, 255)
        away = inside[tuple(index.T)] / lattice.lattice_constant
        caught += (~crystal.present[away > 0.5]).sum()
        missed += crystal.present[away > 0.5].sum()
        beyond += (~crystal.present[away < -0.5]).sum()
        found += (away < -0.5).sum()
    assert caught / (caught + missed) >= 0.98
    assert beyond / found < 0.01


@pytest.mark.parametrize("dose", [3e3, 3e4, 3e5])
def test_crystals_are_there(dose):
    """Defects, film and noise of the prior, twelve hosts: fewer than one site in a thousand."""
    missing, total = 0, 0
    for seed in range(12):
        try:
            _, positions, crystal = locate(simulated(100 + seed, dose))
        except ValueError:  # too faint for a lattice
            continue
        missing += (~crystal.present).sum()
        total += len(positions)
    assert total > 6000
    assert missing < 1e-3 * total


@pytest.mark.parametrize("radius", [0.6, 1.0])
def test_vacancies_side_by_side_are_no_vacuum(radius):
    image, *_ = draw_image((240, 240), 14.0, counts=50.0)
    y, x = np.mgrid[:240, :240]
    missing = np.hypot(y - 100, x - 130) < radius * 14
    image[missing] = np.random.default_rng(0).poisson(15, missing.sum())
    assert locate(image)[2].present.all()


def test_regions_are_described():
    image, *_ = draw_image((300, 320), 12.0, counts=50.0)
    y, x = np.mgrid[:300, :320]
    for centre, radius in (((80, 90), 50), ((210, 240), 30)):
        hole = np.hypot(y - centre[0], x - centre[1]) < radius
        image[hole] = np.random.default_rng(0).poisson(5, hole.sum())
    _, _, crystal = locate(image)
    assert len(crystal.regions) == 2
    for region, centre, radius in zip(
        crystal.regions, ((80, 90), (210, 240)), (50, 30), strict=True
    ):
        # a quarter of a cell at the edge
        assert region.centre == pytest.approx(centre, abs=3)
        assert np.sqrt(region.area / np.pi) == pytest.approx(radius, abs=4)
        away = np.hypot(y - centre[0], x - centre[1])
        assert not crystal.pixels[away < radius - 6].any()
    assert crystal.pixels.sum() == pytest.approx(image.size - np.pi * (50**2 + 30**2), rel=0.03)


def test_another_grain_is_not_this_crystal():
    first, *_ = draw_image((320, 320), 12.0, counts=50.0)
    second, *_ = draw_image((320, 320), 12.0, counts=50.0, angle=0.8)
    x = np.arange(320)
    _, positions, crystal = locate(np.where(x < 220, first, second))
    assert crystal.present[positions[:, 1] < 210].mean() > 0.99
    assert crystal.present[positions[:, 1] > 230].mean() < 0.02


def test_masked_pixels_are_no_vacuum():
    image, *_ = draw_image((240, 240), 12.0, counts=50.0)
    image[60:120, 60:140] = np.nan
    _, positions, crystal = locate(image)
    assert crystal.regions == ()
    assert crystal.present.all()


def test_noise_that_hides_the_crystal_is_told():
    """The lattice shows in thousands of cells together, the crystal in none of them."""
    image, *_ = draw_image((700, 700), 9.0, counts=0.1)
    _, positions, crystal = locate(image)
    assert not crystal.visible
    assert crystal.present.all()
    assert crystal.regions == ()
    assert crystal.spread > 0.3
    assert locate(draw_image((300, 300), 9.0, counts=5.0)[0])[2].spread < 0.2
