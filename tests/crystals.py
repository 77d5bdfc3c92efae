"""Scans of simulated crystals with the worlds behind them, and densities by slow formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import (
    HalfNormal,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import SPECIES
from bayesctx.model import SitePrior
from bayesctx.prior import reference_prior
from bayesctx.scan.conditional import HAS_ATOMS, covariance_of_excess, spread_of_sites
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.field import Field, Material
from bayesctx.scan.film import PLANE_SIZE
from bayesctx.scan.occupation import FIELD_PRECISION
from bayesctx.scan.scale_prior import ACROSS, FILM_SCALE, SCATTER_SCALE, SLANT
from bayesctx.scan.signal import error_size
from bayesctx.scan.view import look
from bayesctx.scan.world import Scan, begin
from bayesctx.simulation.latents import draw_images, generators
from bayesctx.simulation.scene import place_crystal

GIVEN = {"host": "WSe2", "dopant": "Ti", "dose": 1e5}
# rich in defects, so that a small crystal holds most classes
ALPHA = {
    "M": 20.0, "D_M": 1.5, "V_M": 0.3, "X_M": 0.3, "X2_M": 0.3, "X2": 20.0, "V_X": 2.0,
    "V_X2": 0.4, "O_X": 0.8, "Y_X": 0.4, "M_X": 0.3, "hollow": 20.0, "adatom_M": 0.3,
}  # fmt: skip
PRIOR = replace(reference_prior().given(GIVEN), dirichlet_alpha=ALPHA)
COORDINATES = Coordinates(PRIOR.conditions[0], PRIOR.nuisances)
MATERIAL = Material(list(HOSTS).index("WSe2"), METALS.index("Ti"))
KINDS = {"metal": 0, "chalcogen": 1, "hollow": 2}
SAMPLING, PIXELS = 0.2, 64
INNER_AND_OUTER = ("inner_collection_angle", "outer_collection_angle")
FLAT = 1e6  # standard deviation of the signal, within which its prior changes slowly


def abundance_of(prior):
    """Distribution of the abundances on a lattice."""
    return SitePrior.of_lattice(prior, torch.zeros(1, dtype=torch.long)).abundance


ABUNDANCE = abundance_of(PRIOR)
KNOWN_PROBE = PRIOR.given({"beam_energy": 80e3, "convergence_semiangle": 30.0})


RINGS = (
    {"inner_collection_angle": Uniform(55.0, 75.0), "outer_collection_angle": 200.0},
    {"inner_collection_angle": 32.0, "outer_collection_angle": Uniform(55.0, 70.0)},
)
"""Angles of two detectors of one scan."""


def crystal(seed, pixels=PIXELS, prior=PRIOR, rings=()):
    """Scan and world of a simulated crystal without noise, its context and its nuisances."""
    coordinates = Coordinates(prior.conditions[0], prior.nuisances, rings)
    shape = (pixels, pixels) if isinstance(pixels, int) else pixels
    rng = generators(seed, 0, 0)
    image, nuisances = draw_images(rng[0], prior, 1)
    nuisances |= {n: torch.zeros(1, 1) for n in ("rotation", "offset_x", "offset_y")}
    nuisances |= {n: torch.zeros(1) for n in ("drift_x", "drift_y")}
    cell = max(shape) * SAMPLING + 18.0
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell)
    truth = {n: float(v) for n, v in (image | nuisances).items() if n != "concentration"}
    if rings:
        truth |= {"inner_collection_angle": [62.0, 32.0], "outer_collection_angle": [200.0, 60.0]}
    z = coordinates.of(truth)
    field = Field(shape, SAMPLING).limited(coordinates.values(z[None]))
    # the frame of a scan is that of the crystal without strain
    frame = 1 + truth["strain"]
    kind = torch.tensor([KINDS[SPECIES[k].site] for k in species.tolist()])
    scan = Scan(
        torch.zeros(coordinates.num_detectors, *shape),
        field,
        MATERIAL,
        coordinates,
        sites / frame,
        kind,
        ABUNDANCE,
    )
    world = replace(begin(scan, z, species), shift=(columns - sites) / frame)
    world = replace(world, signal=torch.ones_like(world.signal))
    return scan, world, image, nuisances, (columns, species, cell * frame)


def noisy_crystal(seed=3, pixels=48, noise=0.02, prior=KNOWN_PROBE, rings=()):
    """Scan, world and view of a crystal whose images have noise, in units of their mean."""
    scan, world, *_ = crystal(seed, pixels, prior, rings)
    mean = scan.basis @ world.drift
    # where nothing is drawn, columns stand on the lattice
    shift = torch.where(scan.updated[:, None], world.shift, mean)
    world = replace(world, shift=shift, signal=torch.tensor([10.0, 4.0][: len(scan.image)]))
    slope = torch.linspace(-0.1, 0.1, world.film.shape[1])
    film = torch.tensor([0.1, 0.2])[:, None] + torch.tensor([0.0, 1.0])[:, None] * slope
    world = replace(world, film=film[: len(scan.image)])
    # columns are brighter on one side, by about a scatter
    tone = 0.03 * torch.linspace(-1, 1, world.tone.shape[-1]).expand_as(world.tone)
    world = replace(world, tone=tone, excess=scan.mean_excess(tone))
    expected = look(scan, world).expected
    size = noise * expected.mean((1, 2))
    generator = torch.Generator().manual_seed(seed)
    image = expected + size[:, None, None] * torch.randn(expected.shape, generator=generator)
    scan, world = replace(scan, image=image), replace(world, floor=size**2)
    return scan, world, look(scan, world)


def designs(scan, world):
    """What the image is linear in, (detector, parameter, pixel), and roots of its covariance."""
    view = look(scan, world)
    total = view.images.sum(1, keepdim=True)
    film = scan.film.images(torch.eye(scan.film.num_terms)).expand(len(total), -1, -1, -1)
    design = torch.cat([total, view.images, film], 1).flatten(2).double()
    num, terms = view.images.shape[1], scan.film.num_terms
    scale = torch.full((len(total), 1 + num), FLAT, dtype=torch.float64)
    scale[:, 1:] = (error_size(view.values, world.additivity) * world.signal)[:, None]
    # coefficients of the film are a plane, and deviations from it
    ny, nx = scan.film.number[::-1]
    rows, columns = (torch.arange(n).double() - (n - 1) / 2 for n in (ny, nx))
    plane = torch.stack([
        torch.ones(ny, nx).double(), columns.expand(ny, nx), rows[:, None].expand(ny, nx)
    ])  # fmt: skip
    plane = torch.nn.functional.normalize(plane.flatten(1), dim=1)
    plane = plane.mT @ plane
    apart = torch.eye(terms, dtype=torch.float64) - plane
    film = world.film_size.double()[:, None, None] * apart + PLANE_SIZE * terms**0.5 * plane
    roots = [torch.block_diag(own.diag(), root) for own, root in zip(scale, film, strict=True)]
    return design, torch.stack(roots)


def position(world):
    """Coordinates without the common displacement, and the drift along x and y."""
    return torch.cat([world.z[:-2], world.drift.mT.flatten().double()])


def prior_of_angles_and_pairs(coordinates, z):
    """Log prior of coordinates beyond the standard normal one, up to a constant.

    The distance of a pair from the origin is half-normal instead of that of two normal variables;
    an angle is restricted to those that go with the angles before it.
    """
    total, names = torch.zeros(()), list(coordinates.names)
    for name in ("C12", "C21", "C23", "tilt"):
        if f"{name}_x" in names:
            k = names.index(f"{name}_x")
            total = total - torch.linalg.vector_norm(z[k : k + 2]).log()
    values = coordinates.values(z[None])
    for k in range(coordinates.num_detectors):
        inner, outer = (coordinates._prior(n, k) for n in INNER_AND_OUTER)
        low = values["convergence_semiangle"][0]
        if not isinstance(inner, float):
            high = math.inf if not isinstance(outer, float) else outer / 1.05
            total = total + _mass(inner, low, high)
        if not isinstance(outer, float):
            total = total + _mass(outer, 1.05 * values[INNER_AND_OUTER[0]][0, k], math.inf)
    return total


def _mass(law, low, high):
    """Log probability of an interval."""
    ends = law.icdf(torch.tensor([1e-6, 1 - 1e-6]))
    low, high = (torch.as_tensor(v).clamp(*ends.tolist()) for v in (low, high))
    return (law.cdf(high) - law.cdf(low)).log()


def log_posterior(scan, world, variance):
    """Log density of a world and the image, with signal, film and errors integrated out.

    The prior of the signal is flat in its logarithm, and taken at its root mean square, as is the
    size of the errors, which are relative to the signal.
    """
    signal = _size_of_signal(scan, *designs(scan, world), variance)
    design, root = designs(scan, replace(world, signal=signal.float()))
    law = LowRankMultivariateNormal(
        torch.zeros(design.shape[::2], dtype=torch.float64),
        design.mT @ root,
        variance.flatten(1).double(),
    )
    moving = scan.updated & HAS_ATOMS[world.species]
    spread = spread_of_sites(world).double()
    covariance = covariance_of_excess(world.scatter, world.is_coarse)[moving].double()
    excess = (world.excess - scan.mean_excess(world.tone))[moving].double()
    own = (world.shift - scan.basis @ world.drift)[moving].double()
    parts = (
        law.log_prob(scan.image.flatten(1).double()).sum(),
        -_size_of_signal(scan, design, root, variance).log().sum(),
        Normal(0.0, 1.0).log_prob(world.z).sum(),
        prior_of_angles_and_pairs(scan.coordinates, world.z),
        Normal(0.0, FIELD_PRECISION**-0.5).log_prob(world.drift.double()).sum(),
        Normal(0.0, spread[moving, None]).log_prob(own).sum(),
        MultivariateNormal(torch.zeros_like(excess), covariance).log_prob(excess).sum(),
        Normal(0.0, world.jitters).log_prob(world.row_shift.double()).sum(),
        HalfNormal(ACROSS).log_prob(torch.tensor(world.jitter_y)),
        HalfNormal(SLANT).log_prob(torch.tensor(world.slant)),
        HalfNormal(SCATTER_SCALE).log_prob(world.scatter).sum(),
        HalfNormal(FILM_SCALE).log_prob(world.film_size).sum(),
        HalfNormal(1.0).log_prob(torch.tensor(world.additivity)),
    )
    assert math.isfinite(sum(map(float, parts)))
    return sum(map(float, parts))


def _size_of_signal(scan, design, root, variance):
    """Root mean square of the signals given the image."""
    over = design / variance.flatten(1)[:, None].double()
    seen = over @ scan.image.flatten(1)[..., None].double()
    inner = torch.eye(root.shape[-1]) + root.mT @ over @ design.mT @ root
    mean = (root @ torch.linalg.solve(inner, root.mT @ seen))[:, 0, 0]
    covariance = root @ torch.linalg.solve(inner, root.mT.contiguous())
    return (mean.square() + covariance[:, 0, 0]).sqrt()


def check_distribution(draws, prior, num):
    """Compare draws with the weights of the nodes by two moments of their ranks.

    ``num`` is that of the independent draws.
    """
    share = prior.log_weight.softmax(0)
    below = share.cumsum(0) - share / 2
    rank = below[torch.searchsorted((prior.nodes[1:] + prior.nodes[:-1]) / 2, draws)]
    assert float(rank.mean()) == pytest.approx(0.5, abs=4 / (12 * num) ** 0.5)
    assert float(rank.square().mean()) == pytest.approx(1 / 3, abs=4 * 0.3 / num**0.5)
