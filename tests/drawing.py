"""Images of honeycombs drawn from Gaussians, of which everything is known."""

import numpy as np
from scipy.spatial import cKDTree

from bayesctx.micrograph import Lattice, find_sites


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
    """Distance of every true site to the nearest found, and how far kinds are on sublattices."""
    found, sublattice = find_sites(lattice, lattice.shape, margin=-0.5 * lattice.lattice_constant)
    inside = ((sites > margin) & (sites < np.array(lattice.shape) - 1 - margin)).all(-1)
    distance, nearest = cKDTree(found).query(sites[inside])
    assert len(set(nearest)) == inside.sum()
    table = np.array(
        [np.bincount(sublattice[nearest][kind[inside] == k], minlength=3) for k in np.unique(kind)]
    )
    assert sorted(table.argmax(1)) == sorted(set(table.argmax(1)))
    return distance, table.max(1).sum() / table.sum()


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
