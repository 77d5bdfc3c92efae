import functools
import json

import numpy as np
import pytest
import torch

from bayesctx import column_image
from bayesctx.crystal import HOSTS, MONOLAYER_1H
from bayesctx.defects import DEFECTS, SITES, columns_of
from bayesctx.fourier import column_spectra, structure_factor, synthesize
from bayesctx.multislice import shear
from bayesctx.nuisances import NUISANCES, quantile
from bayesctx.optics import ABERRATIONS
from bayesctx.prior import MAX_TRIES, reference_prior
from bayesctx.responses import load_table
from bayesctx.tensors import interpolation_matrix

OPTICS = {
    "beam_energy": 80e3,
    "convergence_semiangle": 30.0,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
}
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


def test_single_atom_at_a_height_is_an_atom_out_of_focus():
    axis = np.linspace(-2, 2, 9)
    raised = column_image([(0.0, 0.0, [("W", 2.0)])], **OPTICS, x=axis, y=axis)
    defocused = column_image(
        [(0.0, 0.0, [("W", 0.0)])], **OPTICS, x=axis, y=axis, aberrations={"C10": 2.0}
    )
    # second order in pi wavelength k² z = 0.13 at the rim of the aperture leaves 0.13³ / 6
    assert np.abs(raised - defocused).max() < 5e-4 * defocused.max()


def test_image_does_not_depend_on_where_and_how_it_lies():
    column = [("Se", -1.67), ("Se", 1.67)]
    x, y = np.array([0.3]), np.array([-0.4])
    first = column_image([(0.0, 0.0, column)], **OPTICS, x=x, y=y, cell=(20.0, 20.0)).item()
    moved = column_image(
        [(3.123, -2.777, column)], **OPTICS, x=x + 3.123, y=y - 2.777, cell=(20.0, 20.0)
    ).item()
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
    sharp, soft = (
        column_image([(8.0, 8.0, [("W", 0.0)])], **kwargs, source_size=s) for s in (0.0, 1.0)
    )
    assert float(soft.sum()) == pytest.approx(float(sharp.sum()), rel=1e-9)
    assert float(soft.max()) < 0.6 * float(sharp.max())


@pytest.mark.parametrize("interference", [True, False])
def test_parts_of_a_sheared_column_give_its_electrons(interference):
    """The fit to the kernel keeps the total; an upright column is its own and only part."""
    column, slope = (("Mo", -1.565), ("S", 1.565)), (0.04, 0.02)
    optics = {
        "beam_energy": 120e3,
        "convergence_semiangle": 25.0,
        "detector": (60.0, 200.0),
        "interference": interference,
    }
    assert shear.sheared_parts(column, (0.0, 0.0), **optics) == [(column, 0.0, 0.0, 1.0)]
    conditions = (120e3, 25.0, (60.0, 200.0), shear.NUM_WAVES[2], interference)

    def total(part, slope):
        return np.trace(shear._kernel(part, slope, *conditions)[1]).real

    parts = shear.sheared_parts(column, slope, **optics)
    fitted = sum(weight * total(part, (0.0, 0.0)) for part, _, _, weight in parts)
    assert fitted == pytest.approx(total(column, slope), rel=0.01)
    # as upright, it would be 2 to 3 % off
    assert total(column, (0.0, 0.0)) > 1.02 * fitted


def test_wide_padding_changes_nothing():
    axis = np.linspace(-1, 1, 5)
    small, large = (
        column_image([(0.0, 0.0, [("W", 0.0)])], **OPTICS, x=axis, y=axis, cell=(c, c))
        for c in (60.0, 120.0)
    )
    # the soft rim of the aperture is a property of the cell: spacing / (3 radius) is 0.8 % here and half of that there
    assert np.abs(small - large).max() < 6e-3 * large.max()


def test_row_shift_moves_rows():
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 9, 5, dtype=torch.complex128, generator=generator)
    spectrum[..., 0] = spectrum[..., 0].real + 0j
    x, y = (
        torch.linspace(0, 9, 7, dtype=torch.float64),
        torch.linspace(1, 4, 5, dtype=torch.float64),
    )
    shift = torch.full((2, 5), 0.3, dtype=torch.float64)
    moved = synthesize(spectrum, x, y, cell=(10.0, 10.0), row_shift=shift)
    assert torch.allclose(moved, synthesize(spectrum, x + 0.3, y, cell=(10.0, 10.0)))
    still = synthesize(
        spectrum, x, y, cell=(10.0, 10.0), row_shift=torch.zeros(2, 5, dtype=torch.float64)
    )
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


PATCH = [
    (0.0, 0.0, [("W", 0.0)]),
    (1.0, 1.55, [("S", -1.565), ("S", 1.565)]),
    (-1.7, 0.9, [("S", -1.565), ("O", 1.565)]),
]


@pytest.mark.parametrize("interference", [True, False])
def test_rings_sum_to_the_wide_detector(interference):
    axis = np.linspace(-1, 1, 3)
    kwargs = OPTICS | {"x": axis, "y": axis, "cell": (10.0, 10.0), "interference": interference}

    def ring(inner, outer):
        return column_image(
            PATCH, **(kwargs | {"inner_collection_angle": inner, "outer_collection_angle": outer})
        ).values

    wide = ring(41.0, 80.0)
    # differences of one function of the angle; the interference is what two large sums in single precision differ by
    limit = 1e-4 if interference else 1e-9
    assert np.abs(ring(41.0, 58.0) + ring(58.0, 80.0) - wide).max() < limit * wide.max()


@pytest.mark.parametrize(("turn", "limit"), [(np.pi / 2, 1e-9), (0.7, 3e-4)])
def test_rotating_all_rotates_the_image(turn, limit):
    """Structure, aberrations and scan turned together: exact on the square lattice of wave vectors, else but for its grain."""
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
    kwargs = OPTICS | {"cell": (40.0, 40.0), "interference": False}

    def at(angle, coefficients, px, py):
        c, s = np.cos(angle), np.sin(angle)
        columns = [(c * x - s * y, s * x + c * y, atoms) for x, y, atoms in PATCH]
        return column_image(
            columns, **kwargs, aberrations=coefficients, x=[c * px - s * py], y=[s * px + c * py]
        ).item()

    points = [(0.2, 0.1), (0.9, 1.2), (-1.5, 0.6), (0.4, -0.8)]
    first, second = (
        np.array([at(a, k, *p) for p in points]) for a, k in ((0.0, aberrations), (turn, turned))
    )
    # the rim of the aperture, 29 spacings across, is one spacing soft: a lattice samples it to a per mille / 10
    assert np.abs(second - first).max() < limit * first.max()


def test_five_angstrom_of_crystal_around_a_patch_suffice():
    a = 3.18
    lattice = [
        (x, y + shift, columns_of(kind, "MoS2", "W")[0])
        for kind, shift in (("M", 0.0), ("X2", a / 3**0.5))
        for i in range(-9, 10)
        for j in range(-6, 7)
        for x, y in [((i + j / 2) * a, j * a * 3**0.5 / 2)]
    ]
    axis = np.linspace(-4, 4, 17)
    kwargs = OPTICS | {
        "x": axis,
        "y": axis,
        "cell": (60.0, 60.0),
        "source_size": 0.8,
        "interference": False,
    }

    def patch(padding):
        return column_image(
            [c for c in lattice if max(abs(c[0]), abs(c[1])) < 4 + padding], **kwargs
        ).values.ravel()

    near, far = patch(5.0), patch(8.0)
    # an Airy disk has wavelength / (pi² angle r) = 0.14 Å / r of its electrons beyond r: the crystal from 5 to 8 Å sees one per
    # cent of the probe and shines with its mean, a third of the peak; a free gain and offset take most of that away
    assert np.abs(near - far).max() < 4e-3 * far.max()
    matched = np.polyval(np.polyfit(near, far, 1), near)
    assert np.abs(matched - far).max() < 1.5e-3 * far.max()


# the size of the transforms is read off the values, which torch reports
@pytest.mark.parametrize(
    "name", ["beam_energy", "C10", "source_size", "displacement", "positions", "x", "row_shift"]
)
def test_gradient_of_an_image_is_the_finite_difference(name):
    generator = torch.Generator().manual_seed(0)
    cell, modes = (6.0, 6.0), (6, 6)
    coefficients = torch.randn(2, 6, 8, dtype=torch.float64, generator=generator)
    known = {n: torch.tensor(v, dtype=torch.float64) for n, v in {
        "beam_energy": 80e3, "C10": 30.0, "source_size": 0.8, "displacement": [0.06, 0.05],
        "positions": [[0.2, 0.3], [1.7, -0.6]],
        "x": [-0.5, 0.4, 1.3], "y": [0.1, 0.9], "row_shift": [0.05, -0.1], "semiangle": 27.0, "spread": 20.0,
    }.items()}  # fmt: skip

    def image(value):
        v = known | {name: value}
        spectra = column_spectra(
            coefficients, v["displacement"], beam_energy=v["beam_energy"], convergence_semiangle=v["semiangle"],
            aberrations={"C10": v["C10"]}, source_size=v["source_size"], focal_spread=v["spread"], cell=cell, num_modes=modes,
        )  # fmt: skip
        # each column of a kind of its own
        phase = structure_factor(
            v["positions"][..., None, :],
            torch.ones_like(v["positions"][..., :1]),
            cell=cell,
            num_modes=modes,
        )
        spectrum = (spectra * phase).sum(-3)
        return synthesize(spectrum, v["x"], v["y"], cell=cell, row_shift=v["row_shift"])

    scale = known[name].clone()
    relative = torch.ones_like(scale, requires_grad=True)
    # central differences of step h leave h² and 1e-16 / h
    assert torch.autograd.gradcheck(
        lambda r: image(r * scale), relative, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize(
    ("host", "dopant"), [("MoS2", "Re"), ("WSe2", "V"), ("MoTe2", "Ti"), ("VS2", "Fe")]
)
def test_expected_intensities_are_positive(host, dopant):
    """A crystal with any class in its middle, under conditions and nuisances drawn from the prior."""
    num, cell, modes = 32, (18.5, 18.5), (40, 40)
    generator = torch.Generator().manual_seed(3)
    conditions = reference_prior().first_possible(
        torch.rand(num, MAX_TRIES, 7, generator=generator, dtype=torch.float64)
    )
    u = {n: torch.rand(num, generator=generator, dtype=torch.float64) for n in NUISANCES}
    nuisance = {n: quantile(d, u[n]) for n, (_, d) in NUISANCES.items()}
    stacks = {(d, v): c for d in DEFECTS for v, c in enumerate(columns_of(d, host, dopant))}
    found = load_table().look_up(list(stacks.values()))
    angles = conditions["inner_collection_angle"], conditions["outer_collection_angle"]
    columns = found[torch.arange(len(stacks)).expand(num, -1)]
    spectra = column_spectra(
        load_table().coefficients(columns, conditions["beam_energy"], *angles).double(),
        found.displacement.double() * nuisance["vibration"][:, None],
        beam_energy=conditions["beam_energy"], convergence_semiangle=conditions["convergence_semiangle"],
        aberrations={n: nuisance[n] for n in ABERRATIONS if n != "C10"} | {"C10": -conditions["defocus"]},
        source_size=nuisance["source_size"], focal_spread=nuisance["focal_spread"], cell=cell, num_modes=modes,
    )  # fmt: skip
    positions, sites = MONOLAYER_1H.sites_around(HOSTS[host].lattice_constant, 8.5)
    axis = torch.linspace(-4, 4, 33, dtype=torch.float64)
    keys, least = list(stacks), []
    for site, classes in SITES.items():
        centre = torch.tensor(positions[sites.index(site)], dtype=torch.float64)
        spectrum = torch.zeros_like(spectra[:, 0])
        for kind, perfect in (("metal", "M"), ("chalcogen", "X2")):
            places = (
                torch.tensor(
                    [p for p, s in zip(positions, sites, strict=True) if s == kind],
                    dtype=torch.float64,
                )
                - centre
            )
            places = places[places.norm(dim=-1) > 0.1]
            factor = structure_factor(
                places, torch.ones_like(places[:, 0]), cell=cell, num_modes=modes
            )
            spectrum = spectrum + spectra[:, keys.index((perfect, 0))] * factor
        chosen = [i for i, (d, _) in enumerate(keys) if d in classes]
        images = synthesize(spectrum[:, None] + spectra[:, chosen], axis, axis, cell=cell)
        least.append((images.amin((-2, -1)) / images.amax((-2, -1))).min())
    # a vacancy under the sharpest probe is the darkest of all, a hundredth of the columns around it
    assert float(min(least)) > 0
