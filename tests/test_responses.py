import numpy as np
import pytest
import torch
from samples import under_a_probe
from scipy.interpolate import make_interp_spline

from bayesctx.context import Detector
from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS, columns_of
from bayesctx.multislice import fit_response, scattering_kernel
from bayesctx.multislice.tabulation import ENERGIES, table_columns
from bayesctx.responses import _cubic_splines, load_table


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


def test_gathering_and_multiplying_agree():
    """The two ways to mix entries, chosen by the number of columns, for the same columns."""
    table = load_table()
    found = table.look_up([(("W", 0.0),), (("Se", -1.68), ("Se", 1.68)), ()])
    energy, *angles = (
        torch.linspace(a, b, 7)[:, None].double()
        for a, b in ((35e3, 290e3), (30.0, 90.0), (110.0, 290.0))
    )
    repeated = found[torch.arange(3).repeat(100)]
    few, many = (table.coefficients(f, energy, Detector(*angles)) for f in (found, repeated))
    assert few.shape == (7, 1, 3, 6, 8)
    assert torch.allclose(many.unflatten(-3, (100, 3)), few[:, :, None], atol=1e-12)


def responses(column, energy, inner, outer):
    table = load_table()
    energy, detector = torch.tensor(energy, dtype=torch.float64), Detector(inner, outer)
    return table.coefficients(table.look_up([column]), energy, detector)[0]


def test_rings_add():
    whole = responses((("W", 0.0),), 90e3, 55.0, 210.0)
    parts = responses((("W", 0.0),), 90e3, 55.0, 93.0) + responses((("W", 0.0),), 90e3, 93.0, 210.0)
    assert torch.allclose(whole, parts, rtol=1e-9)


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
    # error of splines in energy and angle, of a parabola in separation and of four digits; the
    # phase between two atoms varies fastest in the outermost ring, which has a fifth of the signal
    for f, t, limit in zip(found, truth, (0.01, 0.01, 0.015, 0.03), strict=True):
        assert np.abs(f - t).max() < limit * t.max()
    assert np.abs(sum(found) - sum(truth)).max() < 0.01 * sum(truth).max()


def test_table_holds_every_column_of_every_material():
    columns = {c for d in DEFECTS for h in HOSTS for m in METALS for c in columns_of(d, h, m)}
    found = load_table().look_up(sorted(columns))
    assert found.entry.shape == (len(columns), 3)
    assert len(table_columns()) == len(load_table().columns)
    assert load_table().energies.tolist() == list(ENERGIES)


def test_unknown_columns_are_refused():
    with pytest.raises(ValueError, match="elements of the table.*got 'Au'; use"):
        load_table().look_up([(("Au", 0.0),)])
    with pytest.raises(ValueError, match="a column of the table was expected, got MoSeSe"):
        load_table().look_up([(("Mo", -3.8), ("Se", -1.67), ("Se", 1.67))])
    with pytest.raises(ValueError, match="2.9 to 3.7 Å apart.*; use multislice.column_response"):
        load_table().look_up([(("Se", -4.0), ("Se", 4.0))])


def test_gradient_of_the_interpolated_table_is_the_finite_difference():
    found = load_table().look_up([(("W", 0.0),), (("Se", -1.68), ("Se", 1.68))])
    scale = torch.tensor([83e3, 63.0, 187.0], dtype=torch.float64)

    def at(relative):
        energy, *angles = (relative * scale).unbind()
        return load_table().coefficients(found, energy, Detector(*angles))

    relative = torch.ones(3, dtype=torch.float64, requires_grad=True)
    # error of central differences: h² and, by rounding of coefficients below 10 Å², 1e-15 / h
    assert torch.autograd.gradcheck(at, relative, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_table_is_loaded_once():
    assert load_table() is load_table()
