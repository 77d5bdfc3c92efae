import functools
import json

import numpy as np
import pytest
import torch

from bayesctx import column_image
from bayesctx.imaging import interpolation_matrix, synthesize

OPTICS = {"beam_energy": 80e3, "convergence_semiangle": 30.0, "inner_collection_angle": 60.0, "outer_collection_angle": 200.0}
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
        beam_energy=run["energy_eV"],
        convergence_semiangle=run["semiangle_mrad"],
        inner_collection_angle=inner,
        outer_collection_angle=outer,
        x=run["scan_x_A"],
        y=run["scan_y_A"],
        aberrations=run["aberrations_abtem_polar"],
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
    """Intensity at the defect over that at the nearest intact column of the same sublattice, in every comparison."""
    worst = []
    for run, truth, inner, outer, _ in comparisons(shared):
        x, y = np.array(run["scan_x_A"]), np.array(run["scan_y_A"])
        image = whole(run["name"], inner, outer, shared)
        defect = np.array(run["defect_xy_A"])
        host = [np.array([c["x"], c["y"]]) for c in run["columns"]]
        near = [p for p in host if x[0] < p[0] < x[-1] and y[0] < p[1] < y[-1] and np.linalg.norm(p - defect) > 1]

        def at(values, p, x=x, y=y):
            return values[np.abs(x - p[0]).argmin(), np.abs(y - p[1]).argmin()]

        ratios = [(at(image, defect) / at(image, p)) / (at(truth, defect) / at(truth, p)) for p in near]
        signal = at(truth, defect) > 0.1 * truth.max()  # an empty site holds only tails
        worst += [abs(r - 1) for r in ratios] if signal else []
    assert np.sqrt(np.mean(np.square(worst))) < 0.02


def test_single_atom_at_a_height_is_an_atom_out_of_focus():
    axis = np.linspace(-2, 2, 9)
    raised = column_image([(0.0, 0.0, [("W", 2.0)])], **OPTICS, x=axis, y=axis)
    defocused = column_image([(0.0, 0.0, [("W", 0.0)])], **OPTICS, x=axis, y=axis, aberrations={"C10": 2.0})
    # second order in pi wavelength k² z = 0.13 at the rim of the aperture leaves 0.13³ / 6
    assert np.abs(raised - defocused).max() < 5e-4 * defocused.max()


def test_image_does_not_depend_on_where_and_how_it_lies():
    column = [("Se", -1.67), ("Se", 1.67)]
    x, y = np.array([0.3]), np.array([-0.4])
    first = column_image([(0.0, 0.0, column)], **OPTICS, x=x, y=y, cell=(20.0, 20.0)).item()
    moved = column_image([(3.123, -2.777, column)], **OPTICS, x=x + 3.123, y=y - 2.777, cell=(20.0, 20.0)).item()
    turned = column_image([(0.0, 0.0, column)], **OPTICS, x=-y, y=x, cell=(20.0, 20.0)).item()
    assert moved == pytest.approx(first, rel=1e-9)
    assert turned == pytest.approx(first, rel=1e-9)


def test_images_of_columns_add_and_are_positive():
    axis = np.linspace(-3, 3, 13)
    a, b = (0.0, 0.0, [("Mo", 0.0)]), (1.8, 0.0, [("S", -1.565), ("S", 1.565)])
    kwargs = OPTICS | {"x": axis, "y": axis, "cell": (24.0, 24.0)}
    both = column_image([a, b], **kwargs, interference=False)
    assert np.allclose(both, column_image([a], **kwargs) + column_image([b], **kwargs), rtol=1e-9)
    assert both.min() > 0
    assert both.dims == ("y", "x")
    assert both.max() < 0.2


def test_source_size_keeps_the_total_and_lowers_the_peak():
    axis = np.arange(0, 16, 0.25)
    kwargs = OPTICS | {"x": axis, "y": axis, "cell": (16.0, 16.0)}
    sharp, soft = (column_image([(8.0, 8.0, [("W", 0.0)])], **kwargs, source_size=s) for s in (0.0, 1.0))
    assert float(soft.sum()) == pytest.approx(float(sharp.sum()), rel=1e-9)
    assert float(soft.max()) < 0.6 * float(sharp.max())


def test_wide_padding_changes_nothing():
    axis = np.linspace(-1, 1, 5)
    small, large = (column_image([(0.0, 0.0, [("W", 0.0)])], **OPTICS, x=axis, y=axis, cell=(c, c)) for c in (60.0, 120.0))
    # the soft rim of the aperture is a property of the cell: spacing / (3 radius) is 0.8 % here and half of that there
    assert np.abs(small - large).max() < 6e-3 * large.max()


def test_row_shift_moves_rows():
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 9, 5, dtype=torch.complex128, generator=generator)
    spectrum[..., 0] = spectrum[..., 0].real + 0j
    x, y = torch.linspace(0, 9, 7, dtype=torch.float64), torch.linspace(1, 4, 5, dtype=torch.float64)
    shift = torch.full((2, 5), 0.3, dtype=torch.float64)
    moved = synthesize(spectrum, x, y, cell=(10.0, 10.0), row_shift=shift)
    assert torch.allclose(moved, synthesize(spectrum, x + 0.3, y, cell=(10.0, 10.0)))
    still = synthesize(spectrum, x, y, cell=(10.0, 10.0), row_shift=torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(still, synthesize(spectrum, x, y, cell=(10.0, 10.0)))


def test_interpolation_is_exact_for_polynomials():
    pixels = torch.arange(20, dtype=torch.float64)
    at = torch.linspace(4, 14, 23, dtype=torch.float64)
    weights = interpolation_matrix(at, 20, 0.5)
    assert torch.allclose(weights.sum(-1), torch.ones(23, dtype=torch.float64))
    assert torch.allclose(weights @ pixels**2, at**2)
    # coarser targets average: the noise of three pixels falls accordingly
    coarse = interpolation_matrix(torch.tensor([9.5], dtype=torch.float64), 20, 3.0)
    assert float((coarse**2).sum()) < 0.5
    assert float(coarse @ pixels) == pytest.approx(9.5)


@pytest.mark.parametrize(("change", "message"), [
    ({"inner_collection_angle": 20.0}, "inner_collection_angle.*between 25 and 250"),
    ({"inner_collection_angle": 210.0}, "inner below the outer"),
    ({"beam_energy": 80.0}, "80 keV is 80000 eV"),
    ({"convergence_semiangle": 39.0, "inner_collection_angle": 30.0}, "outside of the probe's cone"),
    ({"aberrations": {"defocus": 3.0}}, "aberrations among C10.*got 'defocus'"),
])  # fmt: skip
def test_impossible_conditions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        column_image([(0.0, 0.0, [("W", 0.0)])], **(OPTICS | {"x": [0.0], "y": [0.0]} | change))
