import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from samples import digest, double_precision, under_a_probe

from bayesctx import Detector, Probe, column_image
from bayesctx.crystal import THERMAL_DISPLACEMENT
from bayesctx.defects import columns_of
from bayesctx.multislice import column_response, fit_response, scattering_kernel

PROBE, DETECTOR = Probe(beam_energy=80e3, convergence_semiangle=30.0), Detector(60.0, 200.0)


# mrad, mrad and %; the noise of the reference is up to 1.4, 1.4 and 2.0 %
DETECTORS = {"LAADF": (40, 100, 3.5), "MAADF": (60, 200, 2.5), "HAADF": (80, np.inf, 2.5)}


def reference_runs(shared):
    files = sorted((shared / "reference").glob("*.json"))
    assert len(files) == 17
    for file in files:
        yield json.loads(file.read_text()), np.load(file.with_suffix(".npz"))["rings"]


@functools.cache
def whole(name, inner, outer, shared):
    """Image of a run with the interference between its columns, for two tests."""
    return predict(json.loads((shared / "reference" / f"{name}.json").read_text()), inner, outer)


def predict(run, inner, outer, *, split=False):
    columns = [(c["x"], c["y"], [tuple(a) for a in c["atoms"]]) for c in run["columns"]]
    if split:
        columns = [(x, y, [atom]) for x, y, atoms in columns for atom in atoms]
    image = column_image(
        columns,
        Probe(run["energy_eV"], run["semiangle_mrad"], run["aberrations_abtem_polar"]),
        Detector(inner, outer),
        x=run["scan_x_A"],
        y=run["scan_y_A"],
        cell=run["cell_A"],
        interference=not split,
    )
    return image.values.T


def comparisons(shared):
    for run, rings in reference_runs(shared):
        edges = np.array(run["ring_edges_mrad"])
        for low, high, limit in DETECTORS.values():
            chosen = [i for i in range(len(rings)) if edges[i] >= low and edges[i + 1] <= high]
            yield run, rings[chosen].sum(0), edges[chosen[0]], edges[chosen[-1] + 1], limit


def test_multislice_reference(shared):
    """All 51 comparisons within the limits, which a sum of single atoms does not keep."""
    misses, atoms = [], []
    for run, truth, inner, outer, limit in comparisons(shared):

        def rms(image, truth=truth):
            return 100 * np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean())

        misses.append((rms(whole(run["name"], inner, outer, shared)), limit, run["name"], inner))
        atoms.append(rms(predict(run, inner, outer, split=True)) / limit)
    assert len(misses) == 51
    assert all(error <= limit for error, limit, *_ in misses), sorted(misses)[-3:]
    assert max(atoms) > 4
    assert np.mean(np.array(atoms) > 1) > 0.5


def test_ratio_of_defect_and_host_columns(shared):
    """Intensity at the defect over those at the intact columns near it, in every comparison."""
    worst = []
    for run, truth, inner, outer, _ in comparisons(shared):
        x, y = np.array(run["scan_x_A"]), np.array(run["scan_y_A"])
        image = whole(run["name"], inner, outer, shared)
        defect = np.array(run["defect_xy_A"])
        host = [np.array([c["x"], c["y"]]) for c in run["columns"]]
        near = [
            p
            for p in host
            if x[0] < p[0] < x[-1] and y[0] < p[1] < y[-1] and np.linalg.norm(p - defect) > 1
        ]

        def at(values, p, x=x, y=y):
            return values[np.abs(x - p[0]).argmin(), np.abs(y - p[1]).argmin()]

        ratios = [
            (at(image, defect) / at(image, p)) / (at(truth, defect) / at(truth, p)) for p in near
        ]
        signal = at(truth, defect) > 0.1 * truth.max()  # an empty site holds only tails
        worst += [abs(r - 1) for r in ratios] if signal else []
    assert np.sqrt(np.mean(np.square(worst))) < 0.02


def test_raised_atom_is_out_of_focus():
    axis = np.linspace(-2, 2, 9)
    raised = column_image([(0.0, 0.0, [("W", 2.0)])], PROBE, DETECTOR, x=axis, y=axis)
    defocused = replace(PROBE, aberrations={"C10": 2.0})
    defocused = column_image([(0.0, 0.0, [("W", 0.0)])], defocused, DETECTOR, x=axis, y=axis)
    # second order in pi wavelength k² z = 0.13 at the rim of the aperture leaves 0.13³ / 6
    assert np.abs(raised - defocused).max() < 5e-4 * defocused.max()


def test_image_moves_and_rotates_with_its_column():
    column = [("Se", -1.67), ("Se", 1.67)]
    x, y = np.array([0.3]), np.array([-0.4])
    first = column_image([(0.0, 0.0, column)], PROBE, DETECTOR, x=x, y=y, cell=(20.0, 20.0)).item()
    moved = column_image(
        [(3.123, -2.777, column)], PROBE, DETECTOR, x=x + 3.123, y=y - 2.777, cell=(20.0, 20.0)
    ).item()
    turned = column_image(
        [(0.0, 0.0, column)], PROBE, DETECTOR, x=-y, y=x, cell=(20.0, 20.0)
    ).item()
    assert moved == pytest.approx(first, rel=1e-9)
    assert turned == pytest.approx(first, rel=1e-9)


def test_images_of_columns_add_and_are_positive():
    axis = np.linspace(-3, 3, 13)
    a, b = (0.0, 0.0, [("Mo", 0.0)]), (1.8, 0.0, [("S", -1.565), ("S", 1.565)])
    place = {"x": axis, "y": axis, "cell": (24.0, 24.0)}
    both = column_image([a, b], PROBE, DETECTOR, **place, interference=False)
    single = (column_image([column], PROBE, DETECTOR, **place) for column in (a, b))
    assert np.allclose(both, sum(single), rtol=1e-9)
    assert both.min() > 0
    assert both.dims == ("y", "x")
    assert both.max() < 0.2


def test_source_size_keeps_the_total_and_lowers_the_peak():
    axis = np.arange(0, 16, 0.25)
    place, columns = {"x": axis, "y": axis, "cell": (16.0, 16.0)}, [(8.0, 8.0, [("W", 0.0)])]
    sharp, soft = (
        column_image(columns, replace(PROBE, source_size=s), DETECTOR, **place) for s in (0.0, 1.0)
    )
    assert float(soft.sum()) == pytest.approx(float(sharp.sum()), rel=1e-9)
    assert float(soft.max()) < 0.6 * float(sharp.max())


def test_larger_cell_changes_little():
    axis = np.linspace(-1, 1, 5)
    small, large = (
        column_image([(0.0, 0.0, [("W", 0.0)])], PROBE, DETECTOR, x=axis, y=axis, cell=(c, c))
        for c in (60.0, 120.0)
    )
    # the soft edge of the aperture depends on the cell: spacing / (3 radius) is 0.8 % and 0.4 %
    assert np.abs(small - large).max() < 6e-3 * large.max()


@pytest.mark.parametrize(("probe", "detector", "message"), [
    (PROBE, Detector(20.0, 200.0), "inner_collection_angle.*between 25 and 250"),
    (PROBE, Detector(210.0, 200.0), "inner below the outer"),
    (Probe(80.0, 30.0), DETECTOR, "80 keV is 80000 eV"),
    (Probe(80e3, 39.0), Detector(30.0, 200.0), "outside of the probe's cone"),
    (Probe(80e3, 30.0, {"defocus": 3.0}), DETECTOR, "aberrations among C10.*got 'defocus'"),
])  # fmt: skip
def test_impossible_conditions_are_refused(probe, detector, message):
    with pytest.raises(ValueError, match=message):
        column_image([(0.0, 0.0, [("W", 0.0)])], probe, detector, x=[0.0], y=[0.0])


PATCH = [
    (0.0, 0.0, [("W", 0.0)]),
    (1.0, 1.55, [("S", -1.565), ("S", 1.565)]),
    (-1.7, 0.9, [("S", -1.565), ("O", 1.565)]),
]


@pytest.mark.parametrize("interference", [True, False])
def test_rings_sum_to_the_wide_detector(interference):
    axis = np.linspace(-1, 1, 3)
    options = {"x": axis, "y": axis, "cell": (10.0, 10.0), "interference": interference}

    def ring(inner, outer):
        return column_image(PATCH, PROBE, Detector(inner, outer), **options).values

    wide = ring(41.0, 80.0)
    # the interference is a difference of two large sums in single precision
    limit = 1e-4 if interference else 1e-9
    assert np.abs(ring(41.0, 58.0) + ring(58.0, 80.0) - wide).max() < limit * wide.max()


@pytest.mark.parametrize(("turn", "limit"), [(np.pi / 2, 1e-9), (0.7, 3e-4)])
def test_image_rotates_with_structure_and_aberrations(turn, limit):
    """Exact for quarter turns, otherwise limited by the square lattice of wave vectors."""
    aberrations = {
        "C10": 20.0,
        "C12": 25.0,
        "phi12": 0.3,
        "C21": 200.0,
        "phi21": 1.1,
        "C23": 150.0,
        "phi23": 0.5,
        "C30": 1e4,
    }
    turned = {n: v + turn * n.startswith("phi") for n, v in aberrations.items()}
    options = {"cell": (40.0, 40.0), "interference": False}

    def at(angle, coefficients, px, py):
        c, s = np.cos(angle), np.sin(angle)
        columns = [(c * x - s * y, s * x + c * y, atoms) for x, y, atoms in PATCH]
        probe, place = replace(PROBE, aberrations=coefficients), (c * px - s * py, s * px + c * py)
        x, y = ([v] for v in place)
        return column_image(columns, probe, DETECTOR, x=x, y=y, **options).item()

    points = [(0.2, 0.1), (0.9, 1.2), (-1.5, 0.6), (0.4, -0.8)]
    first, second = (
        np.array([at(a, k, *p) for p in points]) for a, k in ((0.0, aberrations), (turn, turned))
    )
    # the aperture has a radius of 29 spacings and an edge one spacing wide: 1e-4 of sampling error
    assert np.abs(second - first).max() < limit * first.max()


def test_five_angstrom_of_padding_suffice():
    a = 3.18
    lattice = [
        (x, y + shift, columns_of(kind, "MoS2", "W")[0])
        for kind, shift in (("M", 0.0), ("X2", a / 3**0.5))
        for i in range(-9, 10)
        for j in range(-6, 7)
        for x, y in [((i + j / 2) * a, j * a * 3**0.5 / 2)]
    ]
    axis = np.linspace(-4, 4, 17)
    options = {"x": axis, "y": axis, "cell": (60.0, 60.0), "interference": False}

    def patch(padding):
        near = [c for c in lattice if max(abs(c[0]), abs(c[1])) < 4 + padding]
        probe = replace(PROBE, source_size=0.8)
        return column_image(near, probe, DETECTOR, **options).values.ravel()

    near, far = patch(5.0), patch(8.0)
    # an Airy disk has wavelength / (pi² angle r) = 0.14 Å / r of its electrons beyond r: the part
    # from 5 to 8 Å receives one per cent of the probe and scatters with its mean, a third of the
    # peak; most of it is absorbed by a free gain and offset
    assert np.abs(near - far).max() < 4e-3 * far.max()
    matched = np.polyval(np.polyfit(near, far, 1), near)
    assert np.abs(matched - far).max() < 1.5e-3 * far.max()


def test_columns_beyond_the_table_are_computed():
    """The multislice of ``column_response`` agrees with the table, and covers other elements."""
    from bayesctx.responses import load_table as table

    column = (("Cr", 0.0),)
    exact = fit_response(
        scattering_kernel(column, 80e3, (60.0, 200.0), num_waves=160), 80e3, (60.0, 200.0)
    )[0]
    found, displacement = column_response(column, 80e3, DETECTOR)
    truth = under_a_probe(exact)
    assert np.abs(under_a_probe(found.numpy()) - truth).max() < 5e-3 * truth.max()
    assert displacement == pytest.approx(THERMAL_DISPLACEMENT["Cr"], rel=1e-6)
    heavier = [
        float(under_a_probe(column_response(((e, 0.0),), 80e3, DETECTOR)[0].numpy()).max())
        for e in ("Ta", "Hf", "Zr")
    ]
    assert "Hf" not in table().columns
    assert heavier[0] > heavier[1] > heavier[2] > 0
    with pytest.raises(ValueError, match="element with a scattering factor.*'Xx'"):
        column_response((("Xx", 0.0),), 80e3, DETECTOR)


def test_three_atoms_scatter_more_than_the_heaviest():
    """A heavy atom above two light ones scatters more than alone, less than the sum in phase."""
    conditions = (80e3, Detector(80.0, 200.0))
    single, pair, triple = (
        float(column_response(c, *conditions)[0][0].sum())
        for c in (
            (("Mo", 0.0),),
            (("S", -1.565), ("S", 1.565)),
            (("Mo", -2.565), ("S", -1.565), ("S", 1.565)),
        )
    )
    assert single < triple < single + 2.5 * pair


def test_default_dtype_does_not_matter():
    axis = np.linspace(-1, 1, 3)
    detector, place = Detector(41.0, 200.0), {"x": axis, "y": axis, "cell": (10.0, 10.0)}
    expected = digest(column_image(PATCH, PROBE, detector, **place))
    with double_precision():
        column_response.cache_clear()
        assert digest(column_image(PATCH, PROBE, detector, **place)) == expected
