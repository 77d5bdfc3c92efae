import hashlib
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import make_interp_spline

from bayesctx.elements import THERMAL_DISPLACEMENT
from bayesctx.multislice import Grid, fit_response, scattering_factor, scattering_kernel
from bayesctx.multislice.atoms import _lobato, transmission
from bayesctx.multislice.tabulation import ENERGIES, table_columns
from bayesctx.optics import lorentz_factor, wavelength
from bayesctx.responses import _cubic_splines, chebyshev, load_table


def test_scattering_factors_meet_the_mott_bethe_limit():
    """Every row of the published table obeys sum a / b = Z / (2 pi² a0), the limit of large angles."""
    bohr = 0.529177
    for number, (a, b) in enumerate(_lobato().values(), 1):
        assert (a / b).sum() == pytest.approx(number / (2 * math.pi**2 * bohr), rel=1e-6)


def test_rows_of_the_published_table():
    # Lobato and Van Dyck (2014), table 1: tungsten and selenium
    a, b = _lobato()["W"]
    assert a[:2] == pytest.approx([3.97629715819077, 1.52292684257341])
    assert b[:2] == pytest.approx([6.29685779228774, 1.11289951157691])
    assert scattering_factor("Se", np.array([0.0])) == pytest.approx(2 * sum(_lobato()["Se"][0]))


def test_light_atom_scatters_in_first_born_approximation():
    g = np.array([0.5, 1.0, 2.0])
    born = lorentz_factor(300e3) * wavelength(300e3) * scattering_factor("O", g)
    # the second Born term is of the order of the phase, Z alpha / beta = 0.08
    assert transmission("O", 300e3, 5.0)(g).imag == pytest.approx(born, rel=0.02)


def test_kernel_of_one_atom_is_an_integral_over_the_ring():
    """The grid of the multislice against polar quadrature of the analytic grating."""
    edges, energy = (50.0, 80.0, 150.0), 80e3
    kernel = scattering_kernel((("W", 0.0),), energy, edges, num_waves=24)
    lam = wavelength(energy)
    amplitude = transmission("W", energy, 8.0)
    for ring, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        x, w = np.polynomial.legendre.leggauss(12)
        radius = ((low + high) / 2 + (high - low) / 2 * x) * 1e-3 / lam
        phi = (np.arange(128) + 0.5) * 2 * np.pi / 128
        points = np.stack(
            [np.outer(radius, np.cos(phi)), np.outer(radius, np.sin(phi))], -1
        ).reshape(-1, 2)
        weight = np.repeat(w * (high - low) / 2 * 1e-3 / lam * radius * 2 * np.pi / 128, 128)
        scattered = amplitude(np.linalg.norm(points[None] - kernel.k[:, None], axis=-1))
        exact = (scattered * weight) @ scattered.conj().T
        # edges cut pixels of 4 mrad: cubic interpolation leaves a per mille
        assert np.linalg.norm(kernel.values[ring] - exact) < 4e-3 * np.linalg.norm(exact)


@pytest.mark.slow
def test_kernel_of_a_pair_is_the_average_over_displacements():
    """The split into smooth and oscillating parts against brute force over 400 frozen displacements."""
    from bayesctx.multislice import kernel as kernels

    column, energy, edges = (("Se", -1.67), ("Se", 1.67)), 80e3, (60.0, 100.0, 200.0)
    kernel = scattering_kernel(column, energy, edges, num_waves=24, num_radii=6)
    length = wavelength(energy) / 4e-3
    grid = Grid((length, length), energy, 40.0, edges[-1], 2)
    orders = kernels._incident_orders(grid, 40.0, 24, 0)
    weights = grid.ring_weights(edges)
    u = THERMAL_DISPLACEMENT["Se"]
    rng, total, num = np.random.default_rng(0), 0, 400
    gap = grid.propagator(3.34)
    for upper, lower in rng.normal(0, u, (num, 2, 2)):
        wave = (
            torch.fft.fft2(
                grid.plane_waves(orders, -1.67) * (1 + grid.grating("Se", shift=tuple(upper)))
            )
            * gap
        )
        out = torch.fft.fft2(
            torch.fft.ifft2(wave) * (1 + grid.grating("Se", shift=tuple(lower))), norm="forward"
        )
        direct = orders % np.array(grid.size)
        k2 = torch.from_numpy((orders**2).sum(1) / length**2)
        out[torch.arange(len(orders)), direct[:, 0], direct[:, 1]] -= torch.exp(
            -1j * math.pi * grid.wavelength * k2 * 1.67
        ).to(out)
        scattered = out.flatten(1)[:, grid.detected] * length
        total = total + kernels._collect(scattered, scattered, weights) / num
    q2 = ((kernel.k[:, None] - kernel.k) ** 2).sum(-1)
    averaged = kernel.values * np.exp(-2 * np.pi**2 * kernel.displacement**2 * q2)
    for ring in range(2):
        # 400 displacements leave 5 % of a fluctuation that is itself 20 % of the signal
        assert np.linalg.norm(averaged[ring] - total[ring].numpy()) < 0.02 * np.linalg.norm(
            total[ring].numpy()
        )


def test_fit_reproduces_the_kernel():
    edges = (60.0, 100.0, 200.0)
    kernel = scattering_kernel((("Se", -1.67), ("Se", 1.67)), 80e3, edges, num_waves=64)
    coefficients = fit_response(kernel, 80e3, edges)
    assert coefficients.shape == (2, 6, 8)
    from bayesctx.optics import bilinear

    scale = wavelength(80e3) / 40e-3
    p = torch.from_numpy((kernel.k**2).sum(1) * scale**2)
    q = torch.from_numpy(np.linalg.norm(kernel.k[:, None] - kernel.k, axis=-1) * scale / 2)
    terms = torch.stack(
        bilinear([p[:, None] ** m for m in range(3)], [p[None] ** m + 0j for m in range(3)])
    )
    fitted = torch.einsum(
        "rtn,nij,tij->rij", torch.from_numpy(coefficients).to(terms), chebyshev(q).to(terms), terms
    ).numpy()
    inside = p.sqrt().numpy() < 0.9
    for ring in range(2):
        error = (fitted - kernel.values)[ring][np.ix_(inside, inside)]
        assert np.linalg.norm(error) < 0.01 * np.linalg.norm(
            kernel.values[ring][np.ix_(inside, inside)]
        )


def test_splines_of_the_table_are_those_of_scipy():
    nodes = np.log([30.0, 36.0, 43.0, 60.0, 90.0, 150.0, 300.0])
    values = np.random.default_rng(0).normal(size=len(nodes))
    spline = make_interp_spline(nodes, values)
    # between the nodes, on them, and at both ends
    x = torch.from_numpy(np.concatenate([nodes, np.linspace(nodes[0], nodes[-1], 50)]))
    weights, place = _cubic_splines(x, torch.from_numpy(spline.t))
    assert np.allclose(
        (weights * torch.from_numpy(spline.c)[place]).sum(-1), spline(x.numpy()), atol=1e-12
    )
    assert torch.allclose(weights.sum(-1), torch.ones(len(x), dtype=torch.float64))


def test_few_columns_are_picked_and_many_multiplied_to_the_same():
    """Three columns of every condition by either way, which the number of columns chooses between."""
    table = load_table()
    found = table.look_up([(("W", 0.0),), (("Se", -1.68), ("Se", 1.68)), ()])
    conditions = [
        torch.linspace(a, b, 7)[:, None].double()
        for a, b in ((35e3, 290e3), (30.0, 90.0), (110.0, 290.0))
    ]
    repeated = found[torch.arange(3).repeat(100)]
    few, many = table.coefficients(found, *conditions), table.coefficients(repeated, *conditions)
    assert few.shape == (7, 1, 3, 6, 8)
    assert torch.allclose(many.unflatten(-3, (100, 3)), few[:, :, None], atol=1e-12)


def responses(column, energy, inner, outer):
    table = load_table()
    values = [torch.tensor(v, dtype=torch.float64) for v in (energy, inner, outer)]
    return table.coefficients(table.look_up([column]), *values)[0]


def test_rings_add():
    whole = responses((("W", 0.0),), 90e3, 55.0, 210.0)
    parts = responses((("W", 0.0),), 90e3, 55.0, 93.0) + responses((("W", 0.0),), 90e3, 93.0, 210.0)
    assert torch.allclose(whole, parts, rtol=1e-9)


def under_a_probe(coefficients, semiangle=25.0):
    """Response at some spatial frequencies to a probe: means of p and p² over its aperture."""
    q = chebyshev(torch.linspace(0, 0.6, 7, dtype=torch.float64)).numpy()
    power = (semiangle / 40) ** 2
    return np.einsum(
        "to,of,t->f", coefficients, q, [1, power, 0, power**2 / 3, 2 * power**2 / 3, 0]
    )


@pytest.mark.parametrize(
    "column", [(("Mo", 0.0),), (("Se", -1.67), ("Se", 1.67)), (("S", -1.55), ("O", 1.55))], ids=str
)
@pytest.mark.parametrize("energy", [33e3, 55e3, 89e3, 134e3, 270e3])
def test_interpolation_between_the_nodes_of_the_table(column, energy):
    """Multislice at energies, angles and separations that the table does not hold."""
    angles = (65.0, 85.0, 130.0, 190.0, 275.0)
    exact = fit_response(scattering_kernel(column, energy, angles, num_waves=80), energy, angles)
    truth = [under_a_probe(e) for e in exact]
    found = [
        under_a_probe(responses(column, energy, *ring).numpy())
        for ring in zip(angles, angles[1:], strict=False)
    ]
    # splines in energy and angle, a parabola in separation, four significant digits of the file; the phase between the atoms
    # of a pair turns fastest in the outermost ring, which holds a fifth of the whole
    for f, t, limit in zip(found, truth, (0.01, 0.01, 0.015, 0.03), strict=True):
        assert np.abs(f - t).max() < limit * t.max()
    assert np.abs(sum(found) - sum(truth)).max() < 0.01 * sum(truth).max()


def test_table_holds_every_column_of_every_material():
    from bayesctx.crystal import HOSTS
    from bayesctx.defects import DEFECTS, columns_of
    from bayesctx.elements import METALS

    columns = {c for d in DEFECTS for h in HOSTS for m in METALS for c in columns_of(d, h, m)}
    found = load_table().look_up(sorted(columns))
    assert found.entry.shape == (len(columns), 3)
    assert len(table_columns()) == len(load_table().columns)
    assert load_table().energies.tolist() == list(ENERGIES)


def test_unknown_columns_are_refused():
    with pytest.raises(ValueError, match="elements of the table.*'Au'"):
        load_table().look_up([(("Au", 0.0),)])
    with pytest.raises(ValueError, match="column of a doped dichalcogenide.*got MoSeSe"):
        load_table().look_up([(("Mo", -3.8), ("Se", -1.67), ("Se", 1.67))])
    with pytest.raises(ValueError, match="2.9 to 3.7 Å apart.*stretched"):
        load_table().look_up([(("Se", -4.0), ("Se", 4.0))])


def test_columns_beyond_the_table_are_computed():
    """The multislice behind column_response agrees with the table where both can be had, and goes on where it ends."""
    from bayesctx.multislice import column_response
    from bayesctx.responses import load_table as table

    column = (("Cr", 0.0),)
    exact = fit_response(
        scattering_kernel(column, 80e3, (60.0, 200.0), num_waves=160), 80e3, (60.0, 200.0)
    )[0]
    found, displacement = column_response(column, 80e3, 60.0, 200.0)
    truth = under_a_probe(exact)
    assert np.abs(under_a_probe(found.numpy()) - truth).max() < 5e-3 * truth.max()
    assert displacement == pytest.approx(THERMAL_DISPLACEMENT["Cr"], rel=1e-6)
    heavier = [
        float(under_a_probe(column_response(((e, 0.0),), 80e3, 60.0, 200.0)[0].numpy()).max())
        for e in ("Ta", "Hf", "Zr")
    ]
    assert "Hf" not in table().columns
    assert heavier[0] > heavier[1] > heavier[2] > 0
    with pytest.raises(ValueError, match="element with a scattering factor.*'Xx'"):
        column_response((("Xx", 0.0),), 80e3, 60.0, 200.0)


def test_frozen_displacements_of_a_pair_agree_with_the_exact_average():
    """The average for three and more atoms, on two atoms, where the other one is known."""
    from bayesctx.multislice import kernel as kernels

    column, energy, edges = (("Se", -1.67), ("Se", 1.67)), 80e3, (60.0, 100.0, 200.0)
    exact = scattering_kernel(column, energy, edges, num_waves=24)
    q2 = ((exact.k[:, None] - exact.k) ** 2).sum(-1)
    length = wavelength(energy) / 4e-3
    grid = Grid((length, length), energy, 40.0, edges[-1], 2)
    orders = kernels._incident_orders(grid, 40.0, 24, 0)
    frozen = kernels._stack(grid, column, (0.0, 0.0), orders, grid.ring_weights(edges), 0).numpy()
    averaged = exact.values * np.exp(-2 * np.pi**2 * exact.displacement**2 * q2)
    for ring in range(2):
        # the trace is what a broad beam sees; Sobol points and eight symmetries leave a per cent of a fluctuation of 20 %
        ratio = np.trace(frozen[ring]).real / np.trace(averaged[ring]).real
        assert ratio == pytest.approx(1, abs=0.01)


def test_an_atom_far_above_a_pair_scatters_for_itself():
    """Three atoms: a heavy one on two light ones is at least as bright as it is alone, and less than the sum in phase."""
    from bayesctx.multislice import column_response

    conditions = (80e3, 80.0, 200.0)
    single, pair, triple = (
        float(column_response(c, *conditions)[0][0].sum())
        for c in (
            (("Mo", 0.0),),
            (("S", -1.565), ("S", 1.565)),
            (("Mo", -2.565), ("S", -1.565), ("S", 1.565)),
        )
    )
    assert single < triple < single + 2.5 * pair


def test_all_rows_of_the_table_are_atoms():
    """Laws that every row obeys: f falls from a positive value, the X-ray factor from Z, and the electron density is positive."""
    bohr, g, r = 0.529177210903, np.linspace(0, 12, 601), np.geomspace(1e-3, 12, 601)
    assert len(_lobato()) == 103
    for number, (element, (a, b)) in enumerate(_lobato().items(), 1):
        electron = scattering_factor(element, g)
        # Mott-Bethe: f_e = (Z - f_x) / (2 pi² a0 g²)
        xray = 2 * np.pi**2 * bohr * (a / b / (1 + b * g[:, None] ** 2) ** 2).sum(-1)
        assert np.allclose(
            electron[1:], (number - xray[1:]) / (2 * np.pi**2 * bohr * g[1:] ** 2), rtol=1e-5
        )
        assert xray[0] == pytest.approx(number, rel=1e-8)
        assert electron[-1] > 0
        assert xray[-1] > 0
        assert (np.diff(electron) < 0).all()
        assert (np.diff(xray) < 0).all()
        # the density up to a factor: a decaying exponential for every term
        assert ((a * b**-2.5 * np.exp(-2 * np.pi * r[:, None] / np.sqrt(b))).sum(-1) > 0).all()


def test_the_table_is_the_one_that_was_compared():
    """Eight digits of all 1030 numbers, which a second copy of the published table, written with sixteen, has as well."""
    text = "\n".join(
        f"{e} {' '.join(f'{v:.7e}' for v in (*a, *b))}" for e, (a, b) in _lobato().items()
    )
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "66fab0df592a9ed628050c56737bab2214c9e8016940c8ce8f0753e68bb7d49d"
    )


def test_gradient_of_the_interpolated_table_is_the_finite_difference():
    found = load_table().look_up([(("W", 0.0),), (("Se", -1.68), ("Se", 1.68))])
    scale = torch.tensor([83e3, 63.0, 187.0], dtype=torch.float64)

    def at(relative):
        return load_table().coefficients(found, *(relative * scale).unbind())

    relative = torch.ones(3, dtype=torch.float64, requires_grad=True)
    # cubic splines between their knots: central differences leave h² and, of coefficients below 10 Å², 1e-15 / h
    assert torch.autograd.gradcheck(at, relative, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_waves_beyond_the_detector_are_scattered_back_into_it():
    """Two heavy atoms on a detector that ends at 163 mrad: waves kept to 450 mrad between them instead of 300 change nothing."""
    pair, edges = (("Ta", -1.28), ("Ta", 1.28)), (98.7, 162.9)
    narrow, wide = (
        scattering_kernel(pair, 39e3, e, num_waves=8).values[0] for e in (edges, (*edges, 450.0))
    )
    # 2 % are missing if the waves end with the detector
    assert np.trace(narrow).real == pytest.approx(np.trace(wide).real, rel=3e-3)


def test_sheared_kernel_of_atoms_far_apart_is_the_sum_of_theirs():
    """A shear of 1.6 Å: no wave of the upper atom meets the lower one; a small one leaves most of the pair."""
    pair, optics = (
        (("Se", -1.6), ("Se", 1.6)),
        {"beam_energy": 200e3, "edges": (100.0, 200.0), "num_waves": 8},
    )
    far, near, upright = (
        np.trace(scattering_kernel(pair, **optics, slope=(s, 0.0)).values[0]).real
        for s in (0.5, 0.01, 0.0)
    )
    alone = 2 * np.trace(scattering_kernel(pair[:1], **optics).values[0]).real
    assert far == pytest.approx(alone, rel=0.02)
    assert near == pytest.approx(upright, rel=0.02)
    assert upright > 1.15 * alone


def test_shear_in_any_direction_scatters_alike():
    pair, tilt = (("Te", -1.815), ("Te", 1.815)), math.tan(math.radians(4.3))
    slopes = [(tilt * math.cos(a), tilt * math.sin(a)) for a in (0.0, 0.7, 2.4, 3.9)]
    kernels = [
        scattering_kernel(pair, 218e3, (60.0, 160.0), slope=slope, num_waves=24) for slope in slopes
    ]
    totals = [np.trace(kernel.values[0]).real for kernel in kernels]
    # the nodes of the average over the thermal motion are six on a ring
    assert np.ptp(totals) < 0.01 * np.mean(totals)
