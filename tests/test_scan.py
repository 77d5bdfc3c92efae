"""Worlds behind the pixels of a scan: forward model, conditionals and recovery."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import (
    ALPHA,
    COORDINATES,
    INNER_AND_OUTER,
    PIXELS,
    PRIOR,
    SAMPLING,
    crystal,
    designs,
    noisy_crystal,
)  # fmt: skip

from bayesctx.defects import DEFECTS, SPECIES
from bayesctx.inference import infer
from bayesctx.metrics import log_score, match_sites
from bayesctx.model import load_model
from bayesctx.raster import synthesize
from bayesctx.scan import chain
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.field import PUPIL_CELL
from bayesctx.scan.fits import fit_world, log_density
from bayesctx.scan.hamiltonian import draw_jointly
from bayesctx.scan.kernels import Kernels, site_conditional
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.noise import draw_noise, fit_noise
from bayesctx.scan.occupation import draw_occupation
from bayesctx.scan.overlaps import overlaps_of
from bayesctx.scan.partners import partners_of
from bayesctx.scan.rows import draw_rows
from bayesctx.scan.sampling import _apportion, _interleave
from bayesctx.scan.shared import _updated, climb, evaluate, image_slopes, linearise, settle
from bayesctx.scan.signal import draw_signal, regress_species
from bayesctx.scan.view import look, rescaled
from bayesctx.scan.windows import REACH, crop
from bayesctx.scan.world import CLASS, MIRROR, begin
from bayesctx.simulation import simulate_micrograph
from bayesctx.simulation.spectra import add_columns, detector_spectra


def points(num, seed=0):
    """Points of the prior at which the detector goes with the probe."""
    generator = torch.Generator().manual_seed(seed)
    return COORDINATES.draw(num, generator)


@pytest.fixture(scope="module")
def known():
    return crystal(3)


def test_coordinates_and_values_are_inverse():
    for z in points(5):
        values = {n: float(v) for n, v in COORDINATES.values(z[None]).items()}
        back = COORDINATES.of(values)
        again = COORDINATES.values(back[None])
        for name, value in values.items():
            assert float(again[name]) == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_draws_of_coordinates_are_those_of_the_prior():
    values = COORDINATES.values(COORDINATES.draw(4000, torch.Generator().manual_seed(1)))
    for name, low, high in (
        ("defocus", -60, 60),
        ("C12", 0, 30),
        ("tilt", 0, 5),
        ("C30", -2e4, 2e4),
    ):
        found = (values[name] - low) / (high - low)
        # of a uniform variable, within four standard errors
        assert float(found.mean()) == pytest.approx(0.5, abs=4 * 0.29 / 4000**0.5)
        assert float(found.std()) == pytest.approx(0.2887, rel=0.05)


def test_partners_give_nearly_the_same_image(known):
    scan, world, *_ = known
    still = replace(world, row_shift=torch.zeros_like(world.row_shift))
    image = look(scan, still).expected
    contrast = float(image.std())
    for z, upside_down in partners_of(COORDINATES, still.z):
        other = replace(still, z=z)
        if upside_down:
            other = replace(other, species=MIRROR[other.species])
        rest = look(scan, other).expected - image
        assert float(rest.std()) < 0.2 * contrast
        assert not torch.equal(z, still.z)


def test_the_expected_image_is_that_of_the_simulator(known):
    scan, world, image, nuisances, (columns, species, cell) = known
    # the probe in the cell of the scan itself
    scan = replace(scan, field=replace(scan.field, column_cell=math.inf))
    length = (cell, cell)
    deviation = torch.zeros(1, 1, len(SPECIES))
    rings = {n: image[n][:, None] for n in INNER_AND_OUTER}
    spectra = detector_spectra(
        image | rings, nuisances, deviation, cell=length, num_modes=scan.field.num_modes,
        refinement=math.ceil(PUPIL_CELL / cell),
    )[0, 0]  # fmt: skip
    total = add_columns(spectra, columns, species, cell=length)
    axis = scan.field.axes[0] * (1 + float(nuisances["strain"]))
    wanted = synthesize(total, axis, axis, cell=length)
    found = look(scan, world).expected[0]
    assert float((found - wanted).abs().max()) < 2e-4 * float(wanted.max())


def test_the_probe_in_a_small_cell_gives_the_same_columns(known):
    """Against the probe in the cell of the scan, whose aperture has a sharper edge."""
    scan, world, *_ = known
    large = replace(scan, field=replace(scan.field, column_cell=math.inf))
    assert scan.field.column_cell < min(scan.field.cell)
    found, wanted = (look(s, world).expected[0] for s in (scan, large))
    assert float((found - wanted).abs().max()) < 5e-3 * float(wanted.max())


def test_a_common_displacement_moves_all_columns(known):
    scan, world, *_ = known
    z = world.z.clone()
    z[-2:] = torch.tensor([1.5, -0.7])
    moved = replace(world, z=z)
    settled = settle(scan, moved)
    assert float(settled.z[-2:].abs().max()) == 0
    first, second = (look(scan, w).expected for w in (moved, settled))
    assert torch.allclose(first, second, atol=1e-5 * float(first.max()))


@pytest.mark.parametrize("seed", [3, 7])
def test_one_image_of_all_columns_is_the_sum_of_those_of_the_species(seed):
    scan, world, _ = noisy_crystal(seed)
    errors = 0.1 * torch.randn(world.errors.shape, generator=torch.Generator().manual_seed(seed))
    row_shift = world.row_shift + 0.002 * torch.linspace(-1, 1, 3)
    world = replace(world, errors=errors, row_shift=row_shift)
    apart, whole = (look(scan, world, apart=a) for a in (True, False))
    assert len(apart.used) > 2
    assert whole.images is None
    brighter = replace(world, signal=2 * world.signal, floor=3 * world.floor)
    for change in (lambda v: v, lambda v: rescaled(scan, brighter, v)):
        for name in ("expected", "variance"):
            wanted, found = (getattr(change(v), name) for v in (apart, whole))
            assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.max()))


def test_kernels_add_up_to_the_image(known):
    """One column alone: the kernel in its window is the image there."""
    scan, world, *_ = known
    values = scan.coordinates.values(world.z[None])
    kernels = Kernels.of(scan.field, values, scan.material)
    metal = next(i for i, s in enumerate(SPECIES) if s.defect == "M")
    place = torch.tensor([[30.3, 33.8]])
    found, base = kernels.at(torch.tensor([metal]), place)
    centre = (torch.tensor(scan.field.shape[::-1]) - 1) / 2
    position = (place - centre) * SAMPLING
    (factor,) = scan.field.factors(position, torch.ones(1, 1), torch.tensor([metal])).values()
    image = scan.field.images(scan.field.spectra(values, scan.material)[0, 0, metal] * factor[0])
    h, (x, y) = kernels.half, base[0].tolist()
    window = image[y - h : y + h + 1, x - h : x + h + 1]
    assert float((found[0, 0, 0].view_as(window) - window).abs().max()) < 0.01 * float(image.max())


def test_conditional_of_a_site_sums_out_displacement_and_amplitude():
    """Against the density of a multivariate normal."""
    rng = np.random.default_rng(0)
    num = 40
    kernels = torch.from_numpy(rng.normal(size=(1, 1, 3, 3, num)))
    rest, weight = (
        torch.from_numpy(rng.normal(size=(1, 1, num))),
        torch.from_numpy(rng.uniform(0.5, 2, (1, 1, num))),
    )
    mean = torch.tensor([[0.3, -0.2, 0.0]], dtype=torch.float64)
    precision = torch.tensor([[4.0, 4.0, 100.0]], dtype=torch.float64)
    held = torch.diag_embed(precision)[:, None]
    products = overlaps_of(kernels, rest, weight)
    found, location, factor = site_conditional(*products, mean, held)
    found, location = found[:, 0], location[:, 0]
    wanted, order = [], [1, 2, 0]
    for k in range(3):
        slope = kernels[0, 0, k, order].T
        covariance = torch.diag(1 / weight[0, 0]) + slope @ torch.diag(1 / precision[0]) @ slope.T
        law = torch.distributions.MultivariateNormal(
            kernels[0, 0, k, 0] + slope @ mean[0], covariance
        )
        wanted.append(float(law.log_prob(rest[0, 0])))
    assert (found[0] - found[0, 0]).tolist() == pytest.approx([w - wanted[0] for w in wanted])


def test_evidence_of_what_is_linear_is_that_of_a_normal_image(known):
    """Differences between two points, against the density of a multivariate normal."""
    scan, world, *_ = crystal(5, 12)
    generator = torch.Generator().manual_seed(0)
    view = look(scan, replace(world, signal=torch.tensor([5.0])))
    noisy = view.expected + 0.05 * torch.randn(view.expected.shape, generator=generator)
    scan = replace(scan, image=noisy)
    world = replace(world, signal=torch.tensor([5.0]), additivity=1.0)
    variance = torch.full_like(noisy, 0.05**2)
    evidence, wanted = [], []
    for change in (0.0, 0.3):
        z = world.z.clone()
        z[0] += change
        state = evaluate(scan, world, replace(view, variance=variance), z)
        images = look(scan, replace(world, z=z)).images
        again = regress_species(scan, world, state.shared[0], images, variance)
        evidence.append(again.evidence)
        # the signal has a wide prior, film and errors of additivity theirs
        design, root = (parts[0] for parts in designs(scan, replace(world, z=z)))
        num_pixels = design.shape[1]
        law = torch.distributions.LowRankMultivariateNormal(
            torch.zeros(num_pixels, dtype=torch.float64),
            design.T @ root,
            torch.full((num_pixels,), 0.05**2, dtype=torch.float64),
        )
        wanted.append(float(law.log_prob(noisy.flatten().double())))
    assert evidence[1] - evidence[0] == pytest.approx(wanted[1] - wanted[0], abs=0.05)


def test_slopes_are_those_of_the_fitted_image(known):
    scan, world, *_ = known
    scan = replace(scan, image=look(scan, world).expected * 10 + 1)
    view = look(scan, replace(world, signal=torch.tensor([10.0]), floor=torch.tensor([1e-3])))
    weighted, hessian = linearise(scan, world, view)
    assert weighted.shape == (len(world.z), scan.image.numel())
    # sums in single precision
    assert torch.allclose(hessian, hessian.T, rtol=1e-4, atol=1e-6 * float(hessian.max()))
    # the prior alone has ones
    assert torch.linalg.eigvalsh(hessian).min() >= 0.999


def test_updated_slopes_explain_the_step_that_was_taken(known):
    scan, world, *_ = known
    scan = replace(scan, image=look(scan, world).expected * 10 + 1)
    view = look(scan, replace(world, signal=10 * world.signal, floor=torch.tensor([1e-3])))
    slopes, _ = image_slopes(scan, world, view)
    step = torch.linspace(-0.1, 0.1, len(world.z), dtype=torch.float64)
    before, after = (evaluate(scan, world, view, z) for z in (world.z, world.z + step))
    found = _updated(slopes, before, after)
    change = (after.regression.expected - before.regression.expected).flatten()
    scale = float(change.abs().max())
    assert torch.allclose(step.float() @ found, change, atol=1e-4 * scale)
    # nothing changes across the step
    across = torch.zeros(len(step))
    across[0], across[1] = step[1], -step[0]
    assert torch.allclose(across @ found, across @ slopes, atol=1e-4 * scale)


def test_middle_of_a_scan_is_part_of_it(known):
    scan, *_ = known
    scan = replace(scan, image=torch.arange(PIXELS**2.0).view(1, PIXELS, PIXELS))
    middle, kept = crop(scan, 40)
    assert torch.equal(middle.image, scan.image[:, 12:52, 12:52])
    assert torch.equal(middle.kind, scan.kind[kept])
    # the centre stays where it is
    assert torch.allclose(middle.positions, scan.positions[kept])


@pytest.mark.parametrize("shape", [(40, 70), (71, 48), (50, 50)])
def test_the_middle_of_a_rectangle_shows_the_same_crystal(shape):
    scan, world, *_ = crystal(3, shape)
    valid = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.9
    scan = replace(scan, image=look(scan, world).expected, valid=valid)
    middle, kept = crop(scan, 47)
    window = tuple(slice((n - min(n, 47)) // 2, (n - min(n, 47)) // 2 + min(n, 47)) for n in shape)
    assert torch.equal(middle.image, scan.image[:, *window])
    assert torch.equal(middle.valid, scan.valid[window])
    assert middle.field.shape == middle.image.shape[1:]
    # columns up to some distance beyond the border, from the edges of the window in px
    place = scan.positions / SAMPLING + (torch.tensor(shape[::-1]) - 1) / 2
    low = torch.tensor([w.start for w in window[::-1]]) - 0.5 - REACH / SAMPLING
    high = torch.tensor([w.stop for w in window[::-1]]) - 0.5 + REACH / SAMPLING
    assert torch.equal(kept, ((place > low) & (place < high)).all(-1))
    assert not kept.all()
    parts = ("species", "shift", "excess", "is_wide", "is_coarse")
    inside = replace(world, **{n: getattr(world, n)[kept] for n in parts})
    inside = replace(inside, row_shift=world.row_shift[window[0]])
    assert not world.film.any()
    inside = replace(inside, film=begin(middle, world.z).film)
    found = look(middle, inside).expected
    # the band limits of the two cells are whole numbers of orders, and not quite the same
    assert float((found - middle.image).abs().max()) < 0.01 * float(middle.image.max())


@pytest.mark.parametrize("shape", [(48, 48), (40, 56)])
def test_pixels_that_are_not_valid_change_nothing(shape):
    scan, world, view = noisy_crystal(3, shape)
    valid = torch.ones(shape, dtype=torch.bool)
    valid[5:22, 30:] = False
    valid[-1] = False
    found = []
    for value in (0.0, 1e3):
        image = torch.where(valid, scan.image, value)
        found.append(_all_conditionals(replace(scan, image=image, valid=valid), world))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_a_film_that_varies_is_fitted_beside_the_columns():
    """A patch of film as bright as columns, which a plane does not follow."""
    scan, world, view = noisy_crystal(pixels=64, noise=0.03)
    x, y = scan.field.axes
    patch = torch.exp(-((x - 4) ** 2 + (y[:, None] - 4) ** 2) / (2 * 4.0**2))
    film = 0.3 * float(view.expected.max()) * patch
    covered = replace(scan, image=scan.image + film)
    fitted, seen = fit_world(covered, begin(covered, world.z, world.species))
    mine = scan.inside
    assert torch.equal(CLASS[fitted.species[mine]], CLASS[world.species[mine]])
    rest = scan.film.images(fitted.film) - scan.film.images(world.film) - film
    assert float(rest.std()) < 0.1 * float(film.std())
    assert float((covered.image - seen.expected).std()) < 1.2 * float(world.floor.sqrt())


def _all_conditionals(scan, world):
    """What a round of a chain and a fit come to, as tensors."""
    generator = torch.Generator().manual_seed(0)
    view = look(scan, world)
    regression = regress_species(scan, world, view.values, view.images, view.variance)
    joint = linearise_jointly(scan, world, view, exactly=False)
    moved, *_ = draw_jointly(scan, world, view, joint, 3, generator)
    climbed = climb(scan, world, view, 1)[0]
    occupied, probability = draw_occupation(scan, world, view, scan.colours(), generator)
    worlds = [
        begin(scan, world.z),
        moved,
        climbed,
        occupied,
        fit_noise(scan, world, view),
        draw_noise(scan, world, view, generator),
        draw_signal(scan, world, view, generator),
        draw_rows(scan, world, view, generator),
        chain._draw_scales(scan, world, view, generator)[0],
    ]
    numbers = [regression.evidence, log_density(scan, world, view)]
    numbers.append(chain.describe(scan, world, view, probability).log_prob)
    values = [v for w in worlds for v in vars(w).values()]
    return [regression.mean, probability, *map(torch.as_tensor, [*numbers, *values])]


def test_numbers_of_draws_go_with_weights():
    rng = np.random.default_rng(0)
    for num in (0, 1, 7, 100):
        for weight in (*rng.dirichlet(np.full(5, 0.3), 20), np.eye(3)[1], np.full(3, 1 / 3)):
            found = _apportion(num, weight)
            assert sum(found) == num
            # both edges of a share are rounded
            assert all(abs(n - num * w) <= 1 + 1e-9 for n, w in zip(found, weight, strict=True))
            assert all(n >= 0 for n in found)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_few_draws_of_several_chains_together_go_with_weights(num):
    rng = np.random.default_rng(0)
    for weight in (np.array([0.6, 0.4]), *rng.dirichlet(np.full(4, 0.5), 20)):
        found = np.array([_apportion(num, weight, (k + 0.5) / 4) for k in range(4)])
        assert (found.sum(1) == num).all()
        assert (found >= 0).all()
        # a chain alone is off by one, and so are all of them
        assert np.abs(found.sum(0) - 4 * num * weight).max() <= 1 + 1e-9


def test_draws_of_several_modes_are_spread_evenly():
    segments = [["a"] * 12, [], ["b"] * 4, [*range(8)]]
    found = _interleave(segments)
    assert sorted(map(str, found)) == sorted(str(v) for s in segments for v in s)
    # in the order of each
    assert [v for v in found if isinstance(v, int)] == [*range(8)]
    for k, name in ((12, "a"), (4, "b")):
        reached = np.cumsum([v == name for v in found])
        even = k * (np.arange(24) + 1) / 24
        assert np.abs(reached - even).max() <= 1.5


@pytest.mark.slow
def test_worlds_of_a_simulated_image_are_found():
    data = simulate_micrograph(PRIOR, seed=7, num_pixels=128, sampling=SAMPLING)
    model = load_model()
    # so many defects as here are rare by default, which is evidence against the true assignment
    model = model.with_prior(replace(model.prior, dirichlet_alpha=ALPHA))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mixed chains were expected", UserWarning)
        result = infer(
            data.intensity.values,
            {"host": "WSe2", "dopant": "Ti", "dose": 1e5, "sampling": SAMPLING},
            model,
            num_draws=50,
        )
    assert result["posterior"].sizes["chain"] == 4
    matched, truth = match_sites(data, result)
    found = result["class_posterior"].defect.isel(patch=matched)
    right = np.array(DEFECTS)[found.values.argmax(-1)] == truth
    assert right.mean() > 0.97
    assert float(log_score(found, truth).mean()) > -0.1


def test_a_known_azimuth_stays_while_its_magnitude_is_drawn():
    nuisances = {**PRIOR.nuisances, "phi12": 0.4}
    known = Coordinates(PRIOR.conditions[0], nuisances)
    values = known.values(known.draw(20, torch.Generator().manual_seed(0)))
    assert torch.allclose(values["phi12"], torch.full_like(values["phi12"], 0.4))
    assert float(values["C12"].std()) > 0
