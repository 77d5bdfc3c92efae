import pytest
import torch

from bayesctx.context import Detector, Probe
from bayesctx.crystal import HOSTS, MONOLAYER_1H
from bayesctx.defects import DEFECTS, SITES, columns_of
from bayesctx.distributions import quantile
from bayesctx.fourier import column_spectra, embed, structure_factor
from bayesctx.nuisances import NUISANCES
from bayesctx.optics import mode_orders
from bayesctx.prior import MAX_TRIES, reference_prior
from bayesctx.raster import synthesize
from bayesctx.responses import load_table


def gaussian(cell, num_modes):
    """Coefficients of a Gaussian beside the origin."""
    qx = torch.arange(num_modes[0] + 1, dtype=torch.float64) / cell[0]
    qy = mode_orders(num_modes[1]).double()[:, None] / cell[1]
    size = torch.exp(-2 * torch.pi**2 * ((0.8 * qx) ** 2 + (1.1 * qy) ** 2)) / (cell[0] * cell[1])
    return torch.polar(size, -2 * torch.pi * (0.7 * qx - 0.4 * qy))


@pytest.mark.parametrize("larger", [(43.0, 51.0), (16.0, 40.0)])
def test_an_image_that_ends_is_the_same_in_a_larger_cell(larger):
    small = gaussian((16.0, 18.0), (30, 34))
    found = embed(small.expand(2, -1, -1), cell=(16.0, 18.0), larger=larger, num_modes=(55, 66))
    expected = gaussian(larger, (55, 66))
    # what the Gaussian is at the border of the small cell
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-12


@pytest.mark.parametrize(
    "name", ["beam_energy", "C10", "source_size", "displacement", "positions", "x", "row_shift"]
)
def test_gradient_of_an_image_is_the_finite_difference(name):
    generator = torch.Generator().manual_seed(0)
    cell, modes = (6.0, 6.0), (6, 6)
    coefficients = torch.randn(2, 6, 8, dtype=torch.float64, generator=generator)
    values = {
        "beam_energy": 80e3, "convergence_semiangle": 27.0, "C10": 30.0, "source_size": 0.8,
        "focal_spread": 20.0, "displacement": [0.06, 0.05], "positions": [[0.2, 0.3], [1.7, -0.6]],
        "x": [-0.5, 0.4, 1.3], "y": [0.1, 0.9], "row_shift": [0.05, -0.1],
    }  # fmt: skip
    known = {n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}

    def image(value):
        v = known | {name: value}
        spectra = column_spectra(
            coefficients,
            v["displacement"],
            Probe.of(v),
            cell=cell,
            num_modes=modes,
        )
        # the two columns have different responses
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
    # error of central differences of step h: h² and, by rounding, 1e-16 / h
    assert torch.autograd.gradcheck(
        lambda r: image(r * scale), relative, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize(
    ("host", "dopant"), [("MoS2", "Re"), ("WSe2", "V"), ("MoTe2", "Ti"), ("VS2", "Fe")]
)
def test_expected_intensities_are_positive(host, dopant):
    """A crystal with every class in its centre, under conditions drawn from the prior."""
    num, cell, modes = 32, (18.5, 18.5), (40, 40)
    generator = torch.Generator().manual_seed(3)
    conditions = reference_prior().first_possible(
        torch.rand(num, MAX_TRIES, 7, generator=generator, dtype=torch.float64)
    )
    u = {n: torch.rand(num, generator=generator, dtype=torch.float64) for n in NUISANCES}
    nuisance = {n: quantile(d, u[n]) for n, (_, d) in NUISANCES.items()}
    stacks = {(d, v): c for d in DEFECTS for v, c in enumerate(columns_of(d, host, dopant))}
    found = load_table().look_up(list(stacks.values()))
    detector = Detector.of(conditions)
    columns = found[torch.arange(len(stacks)).expand(num, -1)]
    spectra = column_spectra(
        load_table().coefficients(columns, conditions["beam_energy"], detector).double(),
        found.displacement.double() * nuisance["vibration"][:, None],
        Probe.of(nuisance | conditions),
        cell=cell,
        num_modes=modes,
    )
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
    # the smallest is that of a vacancy under the sharpest probe, a hundredth of its neighbours
    assert float(min(least)) > 0
