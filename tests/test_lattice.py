"""The lattice of drawn, simulated and real images, and the causes of there being none."""

import re

import numpy as np
import pytest
import xarray as xr
from drawing import compare, draw_columns, draw_image, draw_sites, make_lattice
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.spatial import cKDTree

from bayesctx import reference_prior, simulate_micrograph
from bayesctx.defects import SITES
from bayesctx.micrograph import find_sites, fit_lattice

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
    """Blur along one direction leaves one family of fringes a hundred times weaker."""
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


def draw_disordered(num_pixels, lattice_constant, noise, seed=0):
    """Columns of unequal heights, a little out of place: what little noise an image has."""
    rng = np.random.default_rng(seed)
    shape = (num_pixels, num_pixels)
    sites, sublattice = draw_sites(shape, lattice_constant)
    heights = np.array([1, 0.6, 0])[sublattice] * np.exp(0.25 * rng.standard_normal(len(sites)))
    moved = sites + 0.02 * lattice_constant * rng.standard_normal(sites.shape)
    image = draw_columns(shape, moved, heights, 0.1 * lattice_constant)
    return image + noise * rng.standard_normal(shape), sites, sublattice


@pytest.mark.parametrize(
    ("lattice_constant", "num_pixels"), [(20.0, 300), (30.0, 420), (41.0, 512)]
)
@pytest.mark.parametrize("blur", [0.0, 1.0, 3.0])
def test_smooth_images_have_the_same_lattice(lattice_constant, num_pixels, blur):
    """Without noise, higher orders rise further above the background than the first."""
    image, sites, sublattice = draw_disordered(num_pixels, lattice_constant, 1e-4)
    lattice = fit_lattice(gaussian_filter(image, blur))
    assert lattice.lattice_constant == pytest.approx(lattice_constant, rel=2e-3)
    distance, consistency = compare(lattice, sites, sublattice)
    assert distance.max() < 0.05 * lattice_constant
    assert consistency == 1


@pytest.mark.parametrize("orders", [1.35, 1.9, 2.3])
def test_filtered_images_have_the_same_lattice(orders):
    """A filter may end between any two shells."""
    image, sites, sublattice = draw_disordered(400, 16.0, 0.02)
    frequency = np.hypot(np.fft.fftfreq(400)[:, None], np.fft.fftfreq(400))
    passed = frequency < orders * 2 / np.sqrt(3) / 16
    lattice = fit_lattice(np.fft.ifft2(np.fft.fft2(image) * passed).real)
    assert lattice.lattice_constant == pytest.approx(16.0, rel=2e-3)
    assert compare(lattice, sites, sublattice)[1] == 1


def draw_superstructure(cells_of, height):
    """Some columns of the brightest sublattice brighter by a part of their height."""
    image, sites, sublattice = draw_image((300, 300), 10.0, counts=200.0)
    brightest = sites[sublattice == 0]
    turns = 0.4 + np.array([0, np.pi / 3])
    vectors = 10.0 * np.stack([np.sin(turns), np.cos(turns)], -1)
    cells = np.rint((brightest - brightest[0]) @ np.linalg.inv(vectors)).astype(int)
    chosen = brightest[cells_of(*cells.T)]
    heights = np.full(len(chosen), 200.0 * height)
    return image + draw_columns(image.shape, chosen, heights, 1.4)


SUPERSTRUCTURES = {
    "every third": (lambda h, k: (h - k) % 3 == 0, 0.3),
    "every fourth": (lambda h, k: (h % 2 == 0) & (k % 2 == 0), 1.0),
    "every other row": (lambda h, k: h % 2 == 0, 1.0),
}


@pytest.mark.parametrize("name", SUPERSTRUCTURES)
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_superstructure_is_not_the_lattice(name, blur):
    """Peaks inside of the first order, weaker than those of the crystal."""
    image = gaussian_filter(draw_superstructure(*SUPERSTRUCTURES[name]), blur)
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
            # where structured noise stands out, what it has is not hexagonal
            with pytest.raises(ValueError, match="a hexagonal lattice.* was expected") as caught:
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


@pytest.mark.parametrize("num_cells", [3.1, 4.2, 5.3, 5.8])
@pytest.mark.parametrize("lattice_constant", [12.0, 40.0])
def test_few_cells_are_counted(num_cells, lattice_constant):
    num_pixels = round(num_cells * lattice_constant)
    image, *_ = draw_image((num_pixels, num_pixels + 9), lattice_constant, counts=100.0)
    with pytest.raises(ValueError, match="at least 6 lattice constants .* expected, got") as caught:
        fit_lattice(image)
    assert "fewer than 6; record a larger field" in str(caught.value)
    counted = float(re.search(r"got ([0-9.]+) \(", str(caught.value))[1])
    assert counted == pytest.approx(num_cells, rel=0.1)


def stretch_pixels(image, height, width):
    """Mean over pixels of a height and width in pixels of the image, by linear interpolation."""
    image = gaussian_filter(image, (0.3 * height, 0.3 * width))
    y, x = (np.arange(0, n - 1, step) for n, step in zip(image.shape, (height, width), strict=True))
    return map_coordinates(image, np.meshgrid(y, x, indexing="ij"), order=1)


@pytest.mark.parametrize("ratio", [1.25, 1.5, 2.0])
@pytest.mark.parametrize("angle", [0.1, 0.4, 0.9])
def test_pixels_that_are_not_square_are_named(ratio, angle):
    image, *_ = draw_image((360, 360), 16.0, angle=angle, counts=50.0)
    for sides, words in (((ratio, 1), "as high as wide"), ((1, ratio), "as wide as high")):
        with pytest.raises(ValueError, match=f"got one of pixels .* times {words}; ") as caught:
            fit_lattice(stretch_pixels(image, *sides))
        named = float(re.search(r"pixels ([0-9.]+) times", str(caught.value))[1])
        assert named == pytest.approx(ratio, rel=0.03)


def test_sheared_images_are_named():
    image, *_ = draw_image((300, 300), 14.0, counts=50.0)
    y, x = np.mgrid[:300, :300]
    sheared = map_coordinates(image, [y + 0.12 * (x - 150), x + 0.12 * (y - 150)], order=1)
    with pytest.raises(
        ValueError, match="got one stretched 1.2[678] times at 1[34]. degrees .*; correct"
    ):
        fit_lattice(sheared[50:-50, 50:-50])


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_padding_and_saturation_hide_no_lattice(level):
    """A disc of one value, whose edge has more power than the crystal around it."""
    image, sites, sublattice = draw_image((170, 170), 12.0, counts=5.0)
    y, x = np.mgrid[:170, :170]
    image[np.hypot(y - 80, x - 90) < 45] = level
    crystal = np.hypot(*(sites - (80, 90)).T) > 50
    distance, consistency = compare(fit_lattice(image), sites[crystal], sublattice[crystal])
    assert np.sqrt((distance**2).mean()) < 0.5
    assert consistency > 0.99


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


@pytest.mark.parametrize("name", ["tiwse2_2", "tiwse2_25", "crwse2_9"])
@pytest.mark.parametrize("blur", [1.0, 2.0])
def test_real_micrographs_have_the_same_lattice_when_smoothed_or_enlarged(shared, name, blur):
    path = shared / "real" / f"{name}.nc"
    if not path.exists():
        pytest.skip("the real micrographs are absent")
    with xr.open_dataset(path) as data:
        image = data.image_adf2_tophat if "image" not in data else data.image[0]
        image = image.values.astype(float)
    constant = fit_lattice(image).lattice_constant
    assert fit_lattice(gaussian_filter(image, blur)).lattice_constant == pytest.approx(
        constant, rel=3e-3
    )
    enlarged = zoom(image[:256, :256], 1 + blur, order=3)
    assert fit_lattice(enlarged).lattice_constant == pytest.approx((1 + blur) * constant, rel=0.02)
