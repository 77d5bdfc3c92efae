import numpy as np
import pytest
import torch
from drawing import draw_image, make_lattice

from bayesctx.micrograph import extract_patches, find_sites, fit_lattice, patch_margin


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
