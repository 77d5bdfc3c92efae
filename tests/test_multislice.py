import itertools

import numpy as np
import pytest
import torch

from bayesctx import column_image, multislice_image
from bayesctx.crystal import HOSTS
from bayesctx.defects import columns_of, formula_of
from bayesctx.elements import THERMAL_DISPLACEMENT
from bayesctx.multislice import Grid, mean_amplitude, scattering_factor
from bayesctx.multislice.frozen_phonons import _displacements, _place_atoms
from bayesctx.optics import lorentz_factor, wavelength

OPTICS = {"beam_energy": 80e3, "convergence_semiangle": 25.0}
CELL = (2 * 3.18, 2 * 3.18 * 3**0.5)


def crystal(defect=None):
    """A 2 x 2 orthogonal cell of MoS2, one metal column replaced."""
    a = HOSTS["MoS2"].lattice_constant
    origins = [
        ((i + o) * a, (j + o) * a * 3**0.5) for i in range(2) for j in range(2) for o in (0, 0.5)
    ]
    metal, pair = columns_of("M", "MoS2", "W")[0], columns_of("X2", "MoS2", "W")[0]
    columns = [(x, y, metal) for x, y in origins] + [(x, y + a / 3**0.5, pair) for x, y in origins]
    return [(*columns[0][:2], defect), *columns[1:]] if defect else columns


def rms(image, truth):
    return float(np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean()))


def test_weak_atom_scatters_into_a_ring_as_its_cross_section_says():
    """One oxygen atom: the image sums to the integral of |gamma f|² over the ring, averaged over the incident waves."""
    cell, axis = (10.0, 10.0), np.arange(0, 10, 0.5)
    rings = {
        "inner_collection_angle": 80.0,
        "outer_collection_angle": 160.0,
        "x": axis,
        "y": axis,
        "cell": cell,
    }
    image = multislice_image([(5.0, 5.0, [("O", 0.0)])], **OPTICS, **rings, num_configurations=2)
    theta, phi = np.meshgrid(
        np.linspace(80e-3, 160e-3, 100),
        np.linspace(0, 2 * np.pi, 32, endpoint=False),
        indexing="ij",
    )
    incident = (np.arange(40) + 0.5) / 40 * 25e-3
    turned = np.sqrt(
        theta**2 + incident[:, None, None] ** 2 - 2 * theta * incident[:, None, None] * np.cos(phi)
    )
    density = (
        lorentz_factor(80e3) * scattering_factor("O", turned / wavelength(80e3))
    ) ** 2 * theta
    mean = (density.mean(-1) * incident[:, None]).sum(0) / incident.sum()
    cross_section = 2 * np.pi * np.trapezoid(mean, theta[:, 0])
    # second Born term and edges of the pixels leave 2 %
    assert float(image.sum()) * 0.25 == pytest.approx(cross_section, rel=0.02)


def test_waves_of_columns_add():
    """The whole crystal against the coherent sum of its columns, every one frozen in the same place."""
    columns = crystal()
    grid = Grid(CELL, 60e3, 25.0, 100.0, 3)
    orders = np.array([[0, 0], [1, 0], [2, -3]])
    kinds = {c: mean_amplitude(grid, c, orders) for c in {tuple(c) for *_, c in columns}}
    waves = grid.plane_waves(orders, -1.565)
    for height, elements in ((-1.565, "S"), (0.0, "Mo"), (1.565, "S")):
        grating = torch.ones(grid.size, dtype=torch.complex64)
        for x, y, stack in columns:
            if any(abs(z - height) < 0.01 for _, z in stack):
                grating *= 1 + grid.grating(
                    elements, THERMAL_DISPLACEMENT[elements] ** 2, shift=(x, y)
                )
        waves = torch.fft.fft2(waves * grating)
        waves = (
            torch.fft.ifft2(waves * grid.propagator(1.565))
            if height < 1
            else waves / waves[0].numel()
        )
    back = torch.from_numpy(np.exp(1j * np.pi * grid.wavelength * grid.k**2 * 1.565)).to(
        torch.complex64
    )
    whole = (waves * back).flatten(1)[:, grid.detected]
    order = np.stack(
        [
            k.ravel()[grid.detected] * length
            for k, length in zip((grid.kx, grid.ky), CELL, strict=True)
        ],
        1,
    )
    total = 0
    for x, y, stack in columns:
        kx = (order[:, 0] - orders[:, None, 0]) / CELL[0]
        ky = (order[:, 1] - orders[:, None, 1]) / CELL[1]
        total = total + kinds[tuple(stack)] * torch.from_numpy(
            np.exp(-2j * np.pi * (kx * x + ky * y))
        )
    angle = torch.from_numpy(grid.k.ravel())[grid.detected] * grid.wavelength * 1e3
    outside = (angle > 30) & (angle < 100)
    error = (whole - total)[:, outside].abs().square().sum() / whole[
        :, outside
    ].abs().square().sum()
    # what one column scatters hits no other: a layer is thinner than its columns are apart
    assert float(error) ** 0.5 < 0.02


@pytest.mark.parametrize(
    ("inner", "outer", "limit", "without"), [(35.0, 60.0, 0.01, 0.02), (60.0, 200.0, 0.015, 0.0)]
)
def test_columns_with_their_interference_are_the_crystal(inner, outer, limit, without):
    rng = np.random.default_rng(0)
    columns = crystal((("W", 0.0),))
    optics = OPTICS | {
        "inner_collection_angle": inner,
        "outer_collection_angle": outer,
        "x": rng.uniform(0, CELL[0], 6),
        "y": rng.uniform(0, CELL[1], 6),
        "cell": CELL,
        "aberrations": {"C10": 30.0, "C12": 15.0, "phi12": 0.4},
    }
    slow = multislice_image(columns, **optics, num_configurations=32)
    fast = column_image(columns, **optics)
    plain = column_image(columns, **optics, interference=False)
    # the finite number of configurations leaves 0.6 to 1 % on the slow image
    assert rms(fast, slow) < limit
    assert rms(plain, slow) > without


def test_tiles_of_a_field_are_the_periodic_crystal():
    """Without a cell the field is treated in tiles: in the middle of a large crystal they agree with the periodic one."""
    a = HOSTS["MoS2"].lattice_constant
    tiles = [(i, j) for i in range(-3, 4) for j in range(-2, 3)]
    wide = [(x + i * CELL[0], y + j * CELL[1], c) for i, j in tiles for x, y, c in crystal()]
    axis = np.linspace(0, a, 5)
    optics = OPTICS | {
        "inner_collection_angle": 35.0,
        "outer_collection_angle": 60.0,
        "x": axis,
        "y": axis,
    }
    optics |= {"source_size": 0.8, "focal_spread": 30.0}

    def interference(columns, **kwargs):
        return column_image(columns, **optics, **kwargs) - column_image(
            columns, **optics, **kwargs, interference=False
        )

    big = [c for c in wide if abs(c[0]) < 12 and abs(c[1]) < 12]
    cell = (3 * CELL[0], 2 * CELL[1])
    many = [
        (x + i * CELL[0], y + j * CELL[1], c)
        for i in range(3)
        for j in range(2)
        for x, y, c in crystal()
    ]
    exact, tiled = interference(many, cell=cell), interference(big)
    # aperture and rings are sampled on another lattice, columns end at the margin
    assert np.abs(tiled - exact).max() < 0.15 * np.abs(exact).max()


def test_an_empty_column_is_none():
    optics = OPTICS | {
        "inner_collection_angle": 40.0,
        "outer_collection_angle": 80.0,
        "x": [0.5],
        "y": [0.3],
        "cell": CELL,
    }
    vacancy = crystal()
    vacancy[0] = (*vacancy[0][:2], ())
    assert column_image(vacancy, **optics).item() == pytest.approx(
        column_image(vacancy[1:], **optics).item(), rel=1e-6
    )
    assert column_image(vacancy, **optics).item() != pytest.approx(
        column_image(crystal(), **optics).item(), rel=0.1
    )


def test_displacements_come_in_pairs_of_opposite_sign():
    atoms = _place_atoms(crystal(), (0.0, 0.0))
    drawn = _displacements(atoms, 400, 0)
    assert drawn.shape == (400, len(atoms), 2)
    assert np.allclose(drawn.mean(0), 0, atol=1e-12)
    # stratified: the variance of every coordinate is closer than chance would have it
    scale = np.array([THERMAL_DISPLACEMENT[e] for e, *_ in atoms])
    assert np.allclose(drawn.std(0), scale[:, None], rtol=0.05)


def test_several_detectors_are_those_alone_and_rings_add():
    optics = OPTICS | {
        "x": np.array([0.3, 1.0]),
        "y": np.array([0.0, 0.5]),
        "cell": CELL,
        "num_configurations": 4,
    }
    image = multislice_image(
        crystal(),
        **optics,
        inner_collection_angle=[50, 50, 90],
        outer_collection_angle=[150, 90, 150],
    )
    assert image.dims == ("detector", "y", "x")
    assert np.allclose(image[0], image[1] + image[2], rtol=1e-5)
    alone = multislice_image(
        crystal(), **optics, inner_collection_angle=50.0, outer_collection_angle=150.0
    )
    assert alone.dims == ("y", "x")
    assert np.allclose(alone, image[0], rtol=1e-4)
    assert bool((alone.standard_error > 0).all())


def test_tilt_shears_the_columns():
    atoms = _place_atoms([(1.0, 2.0, [("S", -1.5), ("S", 1.5)])], (5.0, 0.0))
    assert [round(x, 3) for _, x, _, _ in atoms] == [
        round(1 - 1.5 * np.tan(np.radians(5)), 3),
        round(1 + 1.5 * np.tan(np.radians(5)), 3),
    ]


@pytest.mark.parametrize("degrees", [2.0, 5.0])
@pytest.mark.parametrize(
    ("energy", "inner", "outer", "limit"),
    [(80e3, 40.0, 100.0, 0.03), (80e3, 60.0, 200.0, 0.03), (200e3, 60.0, 200.0, 0.05)],
)
def test_tilted_pair_splits_as_in_multislice(degrees, energy, inner, outer, limit):
    pair = [(5.0, 5.0, [("Se", -1.68), ("Se", 1.68)])]
    optics = {"beam_energy": energy, "convergence_semiangle": 28.0, "cell": (10.0, 10.0)}
    optics |= {"inner_collection_angle": inner, "outer_collection_angle": outer}
    optics |= {"x": np.linspace(3.6, 6.4, 7), "y": np.array([5.0, 5.4])}
    slow = multislice_image(pair, **optics, tilt=(degrees, 0.0), num_configurations=64)
    # 2 % of the pair are not modelled (rms; 5 % at most), 1 % is left of the thermal motion; upright columns miss by 4 to 50 %
    assert rms(column_image(pair, **optics, tilt=(degrees, 0.0)), slow) < limit
    assert rms(column_image(pair, **optics), slow) > 0.03


@pytest.mark.parametrize(("change", "message"), [
    ({"outer_collection_angle": [90.0, 200.0]}, "as many inner as outer.*got 1 and 2"),
    ({"num_configurations": 0}, "num_configurations was expected to be at least 1"),
    ({"aberrations": {"C5": 1.0}}, "aberrations among C10"),
    ({"beam_energy": 80.0}, "80 keV is 80000 eV"),
])  # fmt: skip
def test_impossible_requests_are_refused(change, message):
    known = OPTICS | {
        "inner_collection_angle": 60.0,
        "outer_collection_angle": 200.0,
        "x": [0.0],
        "y": [0.0],
        "cell": CELL,
    }
    with pytest.raises(ValueError, match=message):
        multislice_image(crystal(), **(known | change))


EDGES = list(itertools.product(
    [(("Mo", -2.565), ("S", -1.565), ("S", 1.565)), (("W", -1.67), ("Se", 1.67)), (("O", -1.565), ("S", 1.565))],
    [(34e3, 100.0, 20.0, 55.0), (92e3, -100.0, 36.0, 60.0), (277e3, 100.0, 27.0, 75.0)],
))  # fmt: skip
"""Columns; beam energy, focus, semi-angle and inner angle."""


@pytest.mark.parametrize(("stack", "optics"), [
    # three atoms at 277 keV take almost a minute
    pytest.param(stack, optics, marks=[pytest.mark.slow] * (len(stack) == 3 and optics[0] > 2e5),
                 id=f"{formula_of(stack)}-{optics[0] / 1e3:.0f}keV") for stack, optics in EDGES
])  # fmt: skip
def test_edges_of_the_domain(stack, optics):
    """Far out of focus, with all aberrations, between the energies of the table, also three atoms in a column."""
    column, (energy, focus, semiangle, inner) = [(4.5, 4.5, stack)], optics
    optics = {
        "beam_energy": energy,
        "convergence_semiangle": semiangle,
        "inner_collection_angle": inner,
        "outer_collection_angle": 190.0,
        "aberrations": {
            "C10": focus,
            "C12": 25.0,
            "phi12": 0.5,
            "C21": 250.0,
            "phi21": 1.0,
            "C23": 200.0,
            "C30": 2e4,
        },
        "x": np.arange(3.5, 6.1, 0.5),
        "y": np.array([4.5]),
        "cell": (9.0, 9.0),
    }
    slow = multislice_image(column, **optics, num_configurations=64)
    # 64 phonons leave up to 1.3 % of the truth
    assert rms(column_image(column, **optics), slow) < 0.03
