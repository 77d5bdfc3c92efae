import itertools

import numpy as np
import pytest
from samples import CELL, PROBE, crystal, rms
from scipy.integrate import trapezoid

from bayesctx import Detector, Probe, column_image, multislice_image
from bayesctx.crystal import THERMAL_DISPLACEMENT
from bayesctx.defects import formula_of
from bayesctx.multislice import scattering_factor
from bayesctx.multislice.frozen_phonons import _displacements, _place_atoms
from bayesctx.optics import lorentz_factor, wavelength


def test_weak_atom_has_its_born_cross_section():
    """Image of one oxygen atom, summed: |gamma f|² integrated over the ring and the aperture."""
    cell, axis = (10.0, 10.0), np.arange(0, 10, 0.5)
    oxygen, detector = [(5.0, 5.0, [("O", 0.0)])], Detector(80.0, 160.0)
    image = multislice_image(
        oxygen, PROBE, detector, x=axis, y=axis, cell=cell, num_configurations=2
    )
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
    cross_section = 2 * np.pi * trapezoid(mean, theta[:, 0])
    # 2 % for the second Born term and the pixels at the edges
    assert float(image.sum()) * 0.25 == pytest.approx(cross_section, rel=0.02)


def test_displacements_come_in_pairs_of_opposite_sign():
    atoms = _place_atoms(crystal(), (0.0, 0.0))
    drawn = _displacements(atoms, 400, 0)
    assert drawn.shape == (400, len(atoms), 2)
    assert np.allclose(drawn.mean(0), 0, atol=1e-12)
    # stratified: the variance of every coordinate has less scatter than independent draws
    scale = np.array([THERMAL_DISPLACEMENT[e] for e, *_ in atoms])
    assert np.allclose(drawn.std(0), scale[:, None], rtol=0.05)


def test_several_detectors_match_single_ones():
    options = {
        "x": np.array([0.3, 1.0]),
        "y": np.array([0.0, 0.5]),
        "cell": CELL,
        "num_configurations": 4,
    }
    detectors = [Detector(50, 150), Detector(50, 90), Detector(90, 150)]
    image = multislice_image(crystal(), PROBE, detectors, **options)
    assert image.dims == ("detector", "y", "x")
    assert np.allclose(image[0], image[1] + image[2], rtol=1e-5)
    assert image.inner_collection_angle.values.tolist() == [50, 50, 90]
    alone = multislice_image(crystal(), PROBE, Detector(50.0, 150.0), **options)
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
def test_tilted_pair_matches_multislice(degrees, energy, inner, outer, limit):
    pair = [(5.0, 5.0, [("Se", -1.68), ("Se", 1.68)])]
    optics = pair, Probe(energy, 28.0), Detector(inner, outer)
    place = {"cell": (10.0, 10.0), "x": np.linspace(3.6, 6.4, 7), "y": np.array([5.0, 5.4])}
    slow = multislice_image(*optics, **place, tilt=(degrees, 0.0), num_configurations=64)
    # 2 % model error (rms, 5 % at most), 1 % sampling error of the phonons; 4 to 50 % if upright
    assert rms(column_image(*optics, **place, tilt=(degrees, 0.0)), slow) < limit
    assert rms(column_image(*optics, **place), slow) > 0.03


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"detectors": []}, ValueError, "one detector or more were expected, got none"),
    ({"detectors": [Detector(60.0, 200.0), (90.0, 200.0)]}, TypeError, "a Detector was expected"),
    ({"num_configurations": 0}, ValueError, "num_configurations was expected to be at least 1"),
    ({"probe": Probe(80e3, 25.0, {"C5": 1.0})}, ValueError, "aberrations among C10"),
    ({"probe": Probe(80.0, 25.0)}, ValueError, "80 keV is 80000 eV"),
    ({"probe": Probe(80e3, 25.0, source_size=0.8)}, ValueError, "source_size = 0 was expected"),
    ({"probe": Probe(80e3, 25.0, focal_spread=30)}, ValueError, "focal_spread = 0 was expected"),
])  # fmt: skip
def test_impossible_requests_are_refused(change, error, message):
    known = {"probe": PROBE, "detectors": Detector(60.0, 200.0), "x": [0.0], "y": [0.0]}
    with pytest.raises(error, match=message):
        multislice_image(crystal(), **(known | {"cell": CELL} | change))


EDGES = list(itertools.product(
    [
        (("Mo", -2.565), ("S", -1.565), ("S", 1.565)),
        (("W", -1.67), ("Se", 1.67)),
        (("O", -1.565), ("S", 1.565)),
    ],
    [(34e3, 100.0, 20.0, 55.0), (92e3, -100.0, 36.0, 60.0), (277e3, 100.0, 27.0, 75.0)],
))  # fmt: skip

"""Columns; beam energy, focus, semi-angle and inner angle."""


@pytest.mark.parametrize(("stack", "optics"), [
    # three atoms at 277 keV take almost a minute
    pytest.param(stack, optics, marks=[pytest.mark.slow] * (len(stack) == 3 and optics[0] > 2e5),
                 id=f"{formula_of(stack)}-{optics[0] / 1e3:.0f}keV") for stack, optics in EDGES
])  # fmt: skip
def test_column_image_at_the_edges_of_the_domain(stack, optics):
    """Far from focus, all aberrations, energies between those of the table, up to three atoms."""
    column, (energy, focus, semiangle, inner) = [(4.5, 4.5, stack)], optics
    aberrations = {
        "C10": focus,
        "C12": 25.0,
        "phi12": 0.5,
        "C21": 250.0,
        "phi21": 1.0,
        "C23": 200.0,
        "C30": 2e4,
    }
    optics = column, Probe(energy, semiangle, aberrations), Detector(inner, 190.0)
    place = {"x": np.arange(3.5, 6.1, 0.5), "y": np.array([4.5]), "cell": (9.0, 9.0)}
    slow = multislice_image(*optics, **place, num_configurations=64)
    # 64 configurations have a sampling error of up to 1.3 %
    assert rms(column_image(*optics, **place), slow) < 0.03
