import re

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from bayesctx import reference_prior, simulate_micrograph
from bayesctx.defects import SITES
from bayesctx.micrograph import (
    Lattice,
    check_image,
    extend_image,
    extract_patches,
    find_sites,
    fit_lattice,
    patch_margin,
)


def draw_sites(shape, lattice_constant, *, angle=0.4, strain=((1, 0), (0, 1)), distortion=0.0):
    """Sites (y, x) and sublattices of a honeycomb that a smooth field of some pixels distorts."""
    turns = angle + np.array([0, np.pi / 3])
    vectors = lattice_constant * np.stack([np.sin(turns), np.cos(turns)], -1) @ np.array(strain).T
    reach = np.arange(
        -int(1.6 * max(shape) / lattice_constant) - 3, int(1.6 * max(shape) / lattice_constant) + 4
    )
    cells = np.stack(np.meshgrid(reach, reach), -1).reshape(-1, 1, 2) + np.arange(3)[:, None] / 3
    ideal = (cells @ vectors).reshape(-1, 2) + np.array(shape) / 2 + (3.3, 1.7)
    sites = ideal
    for _ in range(6):
        y, x = sites.T / np.array(shape)[:, None]
        sites = ideal + distortion * np.stack(
            [np.sin(6 * y) * np.cos(3 * x), np.cos(5 * y + 1) + y**2], -1
        )
    inside = ((sites > -5) & (sites < np.array(shape) + 5)).all(-1)
    return sites[inside], np.tile(np.arange(3), len(cells))[inside]


def draw_columns(shape, sites, heights, width):
    """Sum of Gaussians."""
    half = int(4 * width) + 1
    grid = np.stack(
        np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1), indexing="ij"), -1
    )
    corner = np.rint(sites).astype(int)
    at = corner[:, None, None] + grid
    values = heights[:, None, None] * np.exp(
        -((at - sites[:, None, None]) ** 2).sum(-1) / (2 * width**2)
    )
    image = np.zeros(np.array(shape) + 2 * (half + 6))
    np.add.at(image, tuple(np.moveaxis(at + half + 6, -1, 0)), values)
    return image[half + 6 : -half - 6, half + 6 : -half - 6]


def draw_image(
    shape, lattice_constant, *, heights=(1.0, 0.6, 0.0), width=0.14, counts=20.0, seed=0, **lattice
):
    sites, sublattice = draw_sites(shape, lattice_constant, **lattice)
    clean = 0.3 + draw_columns(
        shape, sites, np.array(heights)[sublattice], width * lattice_constant
    )
    image = np.random.default_rng(seed).poisson(counts * clean).astype(float)
    return image, sites, sublattice


def compare(lattice, sites, kind, margin=1.0):
    """Distance of every true site to the nearest that was found, and whether each kind lies on a sublattice of its own."""
    found, sublattice = find_sites(lattice, lattice.shape, margin=-0.5 * lattice.lattice_constant)
    inside = ((sites > margin) & (sites < np.array(lattice.shape) - 1 - margin)).all(-1)
    distance, nearest = cKDTree(found).query(sites[inside])
    assert len(set(nearest)) == inside.sum()
    table = np.array(
        [np.bincount(sublattice[nearest][kind[inside] == k], minlength=3) for k in np.unique(kind)]
    )
    assert sorted(table.argmax(1)) == sorted(set(table.argmax(1)))
    return distance, table.max(1).sum() / table.sum()


STRAINS = (((1, 0), (0, 1)), ((1.05, -0.02), (0.04, 0.95)), ((0.97, 0.06), (-0.03, 1.0)))


@pytest.mark.parametrize(
    ("lattice_constant", "num_pixels"),
    [(5.0, 128), (5.0, 64), (8.6, 256), (20.0, 256), (60.0, 384)],
)
@pytest.mark.parametrize("strain", STRAINS)
def test_lattice_is_found_whatever_its_size_and_strain(lattice_constant, num_pixels, strain):
    image, sites, sublattice = draw_image((num_pixels, num_pixels), lattice_constant, strain=strain)
    lattice = fit_lattice(image)
    area = lattice_constant**2 * np.linalg.det(strain)
    assert lattice.lattice_constant == pytest.approx(np.sqrt(area), rel=2e-3)
    distance, consistency = compare(lattice, sites, sublattice)
    assert distance.max() < 0.03 * lattice_constant
    assert consistency == 1


@pytest.mark.parametrize("heights", [(1, 0, 0), (1, 1, 0), (0.2, 0, 1), (1, 0.8, 0.6)])
@pytest.mark.parametrize("angle", [0.0, 0.5, 1.1, 2.9])
def test_lattice_does_not_depend_on_what_the_columns_hold(heights, angle):
    image, sites, sublattice = draw_image((180, 230), 10.0, heights=heights, angle=angle)
    distance, consistency = compare(fit_lattice(image), sites, sublattice)
    assert distance.max() < 0.2
    assert consistency == 1


@pytest.mark.parametrize("distortion", [1.0, 3.0])
def test_distortion_of_the_scan_is_followed(distortion):
    image, sites, sublattice = draw_image((512, 512), 10.0, distortion=distortion)
    lattice = fit_lattice(image)
    distance, consistency = compare(lattice, sites, sublattice)
    assert np.abs(lattice.displacement).max() > distortion / 2
    assert np.sqrt((distance**2).mean()) < 0.03 * (1 + distortion)
    assert consistency == 1


def test_sublattice_zero_is_the_brightest():
    image, sites, sublattice = draw_image((256, 256), 12.0, heights=(0.3, 0.1, 1.0))
    found, number = find_sites(fit_lattice(image), image.shape, margin=5)
    nearest = cKDTree(sites).query(found)[1]
    assert (sublattice[nearest][number == 0] == 2).all()


def test_astigmatism_leaves_the_lattice():
    """Blur along one direction leaves one family of fringes a hundred times weaker than the others."""
    image, sites, sublattice = draw_image((320, 320), 12.0, angle=np.pi / 6, counts=200.0)
    distance, consistency = compare(
        fit_lattice(gaussian_filter(image, (5.0, 0.5))), sites, sublattice, margin=8
    )
    assert np.sqrt((distance**2).mean()) < 0.5
    assert consistency == 1


def test_weak_first_order_is_still_the_first():
    """Aberrations can leave the first order with a tenth of the power of the second."""
    image, sites, sublattice = draw_image((512, 512), 12.0, counts=100.0)
    frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512))
    is_first = np.abs(frequency * 12 * np.sqrt(3) / 2 - 1) < 0.2
    weak = np.fft.ifft2(np.fft.fft2(image) * np.where(is_first, 0.15, 1)).real
    distance, consistency = compare(fit_lattice(weak - weak.min()), sites, sublattice)
    assert distance.max() < 0.2
    assert consistency == 1


def test_superstructure_is_not_the_lattice():
    """Every third column of a sublattice brighter by 20 %: peaks inside of the first order."""
    image, sites, sublattice = draw_image((300, 300), 10.0, counts=200.0)
    brightest = sites[sublattice == 0]
    steps = brightest - brightest[0]
    turns = 0.4 + np.array([0, np.pi / 3])
    cells = np.rint(
        steps @ np.linalg.inv(10.0 * np.stack([np.sin(turns), np.cos(turns)], -1))
    ).astype(int)
    third = brightest[(cells[:, 0] - cells[:, 1]) % 3 == 0]
    image = image + 40 * draw_columns(image.shape, third, np.ones(len(third)), 1.4)
    assert fit_lattice(image).lattice_constant == pytest.approx(10.0, rel=1e-3)


def test_crystal_may_end_inside_the_image():
    image, sites, sublattice = draw_image((400, 400), 9.0)
    rng = np.random.default_rng(1)
    image[:, 200:] = rng.poisson(6, (400, 200))
    crystal = sites[:, 1] < 190
    distance, consistency = compare(fit_lattice(image), sites[crystal], sublattice[crystal])
    assert distance.max() < 0.3
    assert consistency == 1


def test_hot_pixels_and_offsets_of_lines_are_borne():
    image, sites, sublattice = draw_image((300, 300), 9.0)
    rng = np.random.default_rng(2)
    image[40, 50] = 1e7
    image[rng.integers(0, 300, 90), rng.integers(0, 300, 90)] += 1000
    image += 20 * rng.standard_normal((300, 1))
    distance, consistency = compare(fit_lattice(image - image.min()), sites, sublattice)
    assert np.sqrt((distance**2).mean()) < 0.2
    assert consistency == 1


def test_units_and_kinds_of_numbers_do_not_matter():
    image, *_ = draw_image((128, 128), 8.0)
    expected = fit_lattice(image)
    for same in (
        image * 1e300,
        image * 1e-30 + 1e-30,
        (image * 2**57).astype(np.uint64),
        (image - 100).astype(np.int16) + 101,
    ):
        lattice = fit_lattice(same)
        assert np.allclose(lattice.vectors, expected.vectors, atol=1e-3)
        assert np.allclose(lattice.origin, expected.origin, atol=1e-2)
        assert lattice.signal_to_noise == pytest.approx(expected.signal_to_noise, rel=1e-2)


def test_fit_repeats_and_leaves_the_image():
    image, *_ = draw_image((96, 120), 8.0)
    before = image.copy()
    first, second = fit_lattice(image), fit_lattice(image)
    assert (image == before).all()
    assert (first.vectors == second.vectors).all()
    assert (first.displacement == second.displacement).all()


def make_noise(kind, num_pixels, seed):
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((num_pixels, num_pixels))
    frequency = np.hypot(np.fft.fftfreq(num_pixels)[:, None], np.fft.fftfreq(num_pixels))
    return (
        1000
        + {
            "white": lambda: white,
            "counts": lambda: rng.poisson(0.2, white.shape),
            "blurred": lambda: gaussian_filter(white, 1.5),
            "pink": lambda: np.fft.ifft2(np.fft.fft2(white) / (frequency + 1 / num_pixels)).real,
            "lines": lambda: white + 2 * rng.standard_normal((num_pixels, 1)),
            "edges": lambda: (
                0.1 * white
                + 10 * (0.8 * frequency.argsort(0) + 0.6 * frequency.argsort(1) > num_pixels / 2)
            ),
            "stripes": lambda: (
                white + np.sin(0.4 * np.arange(num_pixels) + 0.2 * np.arange(num_pixels)[:, None])
            ),
            "square": lambda: (
                white
                + np.sin(0.5 * np.arange(num_pixels))
                + np.sin(0.5 * np.arange(num_pixels)[:, None])
            ),
        }[kind]()
    )


@pytest.mark.parametrize(
    "kind", ["white", "counts", "blurred", "pink", "lines", "edges", "stripes", "square"]
)
def test_noise_has_no_lattice(kind):
    ratios = []
    for num_pixels, num_images in ((128, 10), (256, 6), (512, 2), (1024, 1)):
        for seed in range(num_images):
            with pytest.raises(
                ValueError, match="a hexagonal lattice .* was expected, got .*; check that columns"
            ) as caught:
                fit_lattice(make_noise(kind, num_pixels, seed))
            ratios += [float(r) for r in re.findall(r"got one of ([0-9.]+)", str(caught.value))]
    # the threshold is 14
    assert max(ratios, default=0) < 12


def test_faint_lattice_is_told_from_noise():
    """At some electrons per column the fit is weak but right; below it says so."""
    ratios = []
    for counts in (1.0, 0.3, 0.1):
        image, sites, sublattice = draw_image((256, 256), 9.0, counts=counts)
        lattice = fit_lattice(image)
        distance, consistency = compare(lattice, sites, sublattice)
        assert np.sqrt((distance**2).mean()) < 0.6
        assert consistency > 0.99
        ratios.append(lattice.signal_to_noise)
    assert ratios == sorted(ratios, reverse=True)
    with pytest.raises(ValueError, match="a hexagonal lattice"):
        fit_lattice(draw_image((256, 256), 9.0, counts=0.001)[0])


@pytest.mark.parametrize(("num_pixels", "lattice_constant"), [(64, 12.0), (128, 30.0), (256, 50.0)])
def test_few_cells_are_an_error(num_pixels, lattice_constant):
    image, *_ = draw_image((num_pixels, num_pixels), lattice_constant, counts=100.0)
    with pytest.raises(
        ValueError,
        match="at least 6 lattice constants .* were expected, got .*; record a larger field",
    ):
        fit_lattice(image)


BAD = {
    "zeros": (np.zeros((64, 64)), ValueError, "got 0.0 in every pixel; check the detector"),
    "constant": (np.full((64, 64), 7, np.uint16), ValueError, "got 7 in every pixel"),
    "nan": (
        np.where(np.eye(64) > 0, np.nan, 1.0),
        ValueError,
        "got 64 pixels NaN or infinite; crop or repair",
    ),
    "infinite": (
        np.where(np.eye(64) > 0, np.inf, 1.0),
        ValueError,
        "got 64 pixels NaN or infinite",
    ),
    "negative": (-1.0 - np.eye(64), ValueError, "counts were expected, got nothing above zero"),
    "colours": (
        np.ones((64, 64, 3), np.uint8),
        ValueError,
        "as of colours; pass the data of one detector",
    ),
    "colours first": (np.ones((4, 64, 64), np.uint8), ValueError, "as of colours"),
    "detectors": (np.ones((2, 64, 64)), ValueError, "pass one frame of one detector"),
    "row": (np.ones(64), ValueError, "pass one frame of one detector"),
    "empty": (np.ones((0, 64)), ValueError, "pass an image, not a patch"),
    "patch": (np.random.default_rng(0).random((20, 64)), ValueError, "pass an image, not a patch"),
    "complex": (
        np.ones((64, 64), complex),
        TypeError,
        "real numbers was expected, got an array of complex128",
    ),
    "mask": (np.eye(64) > 0, TypeError, "got an array of bool"),
    "names": (np.full((64, 64), "W"), TypeError, "got an array of <U1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_stopped_at_the_door(name):
    values, error, message = BAD[name]
    for check in (check_image, fit_lattice):
        with pytest.raises(error, match=message) as caught:
            check(values)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float16, np.float64])
def test_good_images_pass(dtype):
    assert check_image(np.arange(40 * 50).reshape(40, 50).astype(dtype)) is None


def make_lattice(**changes):
    values = {
        "vectors": np.array([[0.0, 8.0], [8 * np.sqrt(0.75), 4.0]]),
        "origin": np.array([1.0, 2.0]),
        "displacement": np.zeros((2, 4, 5)),
        "shape": (100, 130),
        "signal_to_noise": 100.0,
        "symmetry": 1.0,
    }
    return Lattice(**values | changes)


def test_lattice_constant_is_that_of_the_area():
    lattice = make_lattice()
    assert lattice.lattice_constant == pytest.approx(8.0)
    shear = np.array([[1.1, 0.2], [0.0, 1 / 1.1]])
    assert make_lattice(vectors=lattice.vectors @ shear).lattice_constant == pytest.approx(8.0)


def test_displacement_is_that_of_its_nodes():
    rng = np.random.default_rng(0)
    lattice = make_lattice(displacement=rng.standard_normal((2, 4, 5)))
    nodes = np.stack(
        np.meshgrid(np.linspace(0, 99, 4), np.linspace(0, 129, 5), indexing="ij"), -1
    ).reshape(-1, 2)
    assert np.allclose(lattice.displacement_at(nodes), lattice.displacement.reshape(2, -1).T)
    assert np.allclose(
        lattice.displacement_at(np.array([[-50.0, 0.0]])), lattice.displacement[:, 0, 0]
    )


@pytest.mark.parametrize("margin", [-3.0, 0.0, 17.5])
def test_sites_fill_the_image_to_the_margin(margin):
    lattice = make_lattice()
    sites, sublattice = find_sites(lattice, (100, 130), margin=margin)
    assert (sites >= margin).all()
    assert (sites <= np.array([99, 129]) - margin).all()
    cells = (sites - lattice.origin) @ np.linalg.inv(lattice.vectors) - sublattice[:, None] / 3
    assert np.abs(cells - np.round(cells)).max() < 1e-9
    expected = [(y, x) for y in np.arange(-60, 80) for x in np.arange(-60, 80)]
    every = (
        np.array(expected)[:, None] + np.arange(3)[:, None] / 3
    ) @ lattice.vectors + lattice.origin
    inside = ((every >= margin) & (every <= np.array([99, 129]) - margin)).all(-1)
    assert len(sites) == inside.sum()
    assert (np.bincount(sublattice) == inside.sum(0)).all()


def test_sites_solve_for_the_field_where_they_are():
    rng = np.random.default_rng(3)
    lattice = make_lattice(displacement=0.5 * rng.standard_normal((2, 4, 5)))
    sites, sublattice = find_sites(lattice, (100, 130), margin=0)
    fractions = (sites - lattice.displacement_at(sites) - lattice.origin) @ np.linalg.inv(
        lattice.vectors
    )
    cells = fractions - sublattice[:, None] / 3
    assert np.abs(cells - np.round(cells)).max() < 0.01


def sites_by_kind(data):
    kind = {d: k for k, site in enumerate(SITES) for d in SITES[site] if d != "adatom_M"}
    known = data.defect.values != "adatom_M"
    sites = np.stack([data.site_y.values, data.site_x.values], -1)
    return sites[known], np.array([kind[d] for d in data.defect.values[known]])


@pytest.mark.parametrize(
    ("seed", "host", "sampling", "dose", "defocus"),
    [
        (1, "MoS2", 0.10, 1e5, 20.0),
        (2, "WSe2", 0.20, 3e4, -30.0),
        (3, "VSe2", 0.40, 3e4, 0.0),
        (4, "NbS2", 0.30, 1e6, 30.0),
        (5, "MoTe2", 0.25, 2e5, 10.0),
    ],
)
def test_sites_of_simulated_micrographs(seed, host, sampling, dose, defocus):
    prior = reference_prior().given({"host": host, "dose": dose, "defocus": defocus})
    data = simulate_micrograph(
        prior, seed=seed, num_pixels=256 if sampling > 0.15 else 384, sampling=sampling
    )
    distance, consistency = compare(fit_lattice(data.intensity.values), *sites_by_kind(data))
    assert np.sqrt((distance**2).mean()) * sampling < 0.15
    assert consistency > 0.998


@pytest.mark.parametrize("name", ["tiwse2_2", "tiwse2_25"])
def test_sites_of_real_micrographs(shared, name):
    path = shared / "real" / f"{name}.nc"
    if not path.exists():
        pytest.skip("the real micrographs are absent")
    with xr.open_dataset(path) as data:
        images, label = data.image.values, data.label_name.values[data.label.values]
        sites = np.stack([data.site_y.values, data.site_x.values], -1)
    kind = np.isin(label, ("M", "D_M")).astype(int)
    constants = []
    for image in images:
        lattice = fit_lattice(image)
        distance, consistency = compare(lattice, sites, kind)
        # the labels are whole pixels: 0.41 px rms of their own
        assert np.sqrt((distance**2).mean()) < 0.5
        assert distance.max() < 1.8
        assert consistency > 0.998
        constants.append(lattice.lattice_constant)
    assert constants == pytest.approx([8.54] * 2, rel=0.01)
    assert constants[0] == pytest.approx(constants[1], rel=1e-3)


@pytest.mark.parametrize(
    ("sampling", "target_sampling", "num_pixels"),
    [(0.4, 0.25, 32), (0.25, 0.25, 31), (0.1, 0.25, 32)],
)
def test_patches_of_a_plane_are_planes(sampling, target_sampling, num_pixels):
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(140.0), indexing="ij")
    margin = patch_margin(sampling, target_sampling, num_pixels)
    rng = np.random.default_rng(0)
    low, high = np.array([margin, margin]), np.array([119, 139]) - margin
    positions = np.concatenate([[low, high], rng.uniform(low, high, (50, 2))])
    patches = extract_patches(
        3 * y - 2 * x,
        torch.from_numpy(positions),
        sampling=sampling,
        target_sampling=target_sampling,
        num_pixels=num_pixels,
    )
    offset = (np.arange(num_pixels) - (num_pixels - 1) / 2) * target_sampling / sampling
    expected = (
        3 * (positions[:, :1] + offset)[:, :, None] - 2 * (positions[:, 1:] + offset)[:, None]
    )
    assert patches.shape == (52, num_pixels, num_pixels)
    assert np.abs(patches.numpy() - expected).max() < 0.05


def test_patches_on_pixels_are_crops():
    image = torch.from_numpy(np.random.default_rng(1).random((60, 70)))
    patches = extract_patches(
        image,
        torch.tensor([[20.0, 30.0], [41.0, 17.0]]),
        sampling=0.2,
        target_sampling=0.2,
        num_pixels=15,
    )
    assert patches.dtype == image.dtype
    assert torch.allclose(patches[0], image[13:28, 23:38])
    assert torch.allclose(patches[1], image[34:49, 10:25])


def test_patches_do_not_depend_on_their_company():
    rng = np.random.default_rng(2)
    image = torch.from_numpy(rng.random((200, 200), np.float32))
    positions = torch.from_numpy(rng.uniform(60, 140, (900, 2)).astype(np.float32))
    options = {"sampling": 0.1, "target_sampling": 0.25, "num_pixels": 32}
    patches = extract_patches(image, positions, **options)
    assert torch.allclose(
        patches[-1:], extract_patches(image, positions[-1:], **options), atol=1e-6
    )
    assert extract_patches(image, positions[:0], **options).shape == (0, 32, 32)


def test_patches_average_what_is_finer():
    image = torch.from_numpy(np.random.default_rng(3).poisson(5.0, (300, 300)))
    patches = extract_patches(
        image, torch.full((1, 2), 150.0), sampling=0.05, target_sampling=0.25, num_pixels=32
    )
    assert patches.dtype == torch.float32
    assert float(patches.mean()) == pytest.approx(5.0, rel=0.02)
    # 25 pixels a target pixel; the cubic kernel weighs them unevenly
    assert 0.4 < float(patches.var()) * 25 / 5.0 < 1.0


def test_patches_beyond_the_border_are_an_error():
    with pytest.raises(
        ValueError, match=r"sites 27\.0 px inside the image were expected, .*; see patch_margin"
    ):
        extract_patches(
            torch.ones(90, 90),
            torch.tensor([[45.0, 26.5]]),
            sampling=0.1,
            target_sampling=0.1,
            num_pixels=51,
        )


def test_patches_show_the_column_in_their_centre():
    image, *_ = draw_image((300, 300), 12.0, heights=(1, 0.5, 0), counts=500.0)
    lattice = fit_lattice(image)
    sites, sublattice = find_sites(lattice, image.shape, margin=patch_margin(0.27, 0.25, 21))
    patches = extract_patches(
        torch.from_numpy(image),
        torch.from_numpy(sites),
        sampling=0.27,
        target_sampling=0.25,
        num_pixels=21,
    ).numpy()
    mean = np.stack([patches[sublattice == k].mean(0) for k in range(3)])
    assert np.unravel_index(mean[0].argmax(), (21, 21)) == (10, 10)
    assert np.argsort(mean[:, 10, 10])[::-1][0] == 0
    assert mean[:, 10, 10].max() / mean[:, 10, 10].min() > 3


def test_the_crystal_goes_on_beyond_the_border():
    """The image of a larger field, cropped and extended again, is the larger one up to noise and interpolation."""
    whole, _, _ = draw_image((220, 240), 12.0, counts=1e4)
    margin = 25
    inner = whole[margin:-margin, margin:-margin]
    extended = extend_image(inner, fit_lattice(inner), margin)
    assert extended.shape == whole.shape
    assert np.array_equal(extended[margin:-margin, margin:-margin], inner.astype(np.float32))
    ring = np.ones(whole.shape, bool)
    ring[margin:-margin, margin:-margin] = False
    # linear interpolation flattens the columns a little, and two corners have nothing further in to be copied from
    error = np.abs(extended - whole)[ring] / whole.std()
    assert np.quantile(error, 0.9) < 0.15
    mirrored = np.pad(inner, margin, mode="reflect")
    assert np.median(error) < 0.2 * np.median(np.abs(mirrored - whole)[ring] / whole.std())
