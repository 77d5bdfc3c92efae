"""The generative model of a scan as a Pyro program: what the moves of the chains sample from."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..model import sample_abundance
from .conditional import (
    LEAST_SHARE,
    MISLEADING,
    covariance_of_excess,
    log_share_of_species,
    spread_of_sites,
)
from .dose import log_prior_of_dose
from .occupation import EVEN, FIELD_PRECISION, FREQUENT, RARE
from .scale_prior import PER_DETECTOR
from .signal import error_size
from .view import look
from .world import JITTERS, PERFECT, TONE_SIZE, Scan, World, begin

__all__ = ["sample_scan_program", "sample_sites", "values_of"]

FLAT = 1e6  # standard deviation of the floor, which has no prior of its own
WIDE_LOG = 10.0  # the same, of the logarithms of signal and slope
TINY = 1e-7


def sample_scan_program(scan: Scan, shared: tuple | None = None) -> World:
    """Sample everything behind the pixels of a scan, and the pixels.

    Parameters
    ----------
    scan : Scan
        Geometry, material, priors, and the image, which is observed.
    shared : tuple, optional
        ``spectra_of`` the coordinates, if these are known.

    Returns
    -------
    World
        What was drawn.

    Notes
    -----
    Sites of the program: the shared variables ``z`` (standard normal, see ``Coordinates``) with the
    condition ``detector``; ``drift``; the scales ``jitter``, ``jitter_y``, ``slant``, ``disorder``,
    ``scatter``, ``film_size`` and ``additivity``, see ``Coordinates.scale_priors``; ``rows``;
    ``share_wide``, ``share_coarse``; ``fraction`` of the abundances; ``tone_size`` and ``tone`` of
    the mean excess;
    of a co-doped crystal ``share_codopant``; for every lattice site ``species``, ``is_wide``,
    ``is_coarse``, ``own`` displacement and ``excess``, and what it holds where it only looks like
    its species (``is_misleading``, ``other``, ``held``); ``signal``, ``film``, ``errors`` of
    additivity; ``floor`` and ``log_slope`` of the noise with the prior of the ``dose`` as a factor;
    and ``pixels``.
    """
    start = begin(scan, _origin(scan))
    z = pyro.sample("z", dist.Normal(torch.zeros_like(start.z), 1.0).to_event(1))
    prior = scan.coordinates.log_prior(z[None])[0] + 0.5 * z.square().sum()
    pyro.factor("detector", prior)  # minus infinity where the detector cannot be
    scale = torch.full_like(start.drift, FIELD_PRECISION**-0.5)
    drift = pyro.sample("drift", dist.Normal(0.0, scale).to_event(2))
    priors = scan.coordinates.scale_priors
    laws = {
        n: p.law.expand([len(scan.image)]).to_event(1) if n in PER_DETECTOR else p.law
        for n, p in priors.items()
    }
    scales = {n: pyro.sample(n, law) for n, law in laws.items()}
    jitters = torch.stack([scales[n] for n in JITTERS]).expand_as(start.row_shift)
    rows = pyro.sample("rows", dist.Normal(0.0, jitters).to_event(2))
    world = replace(
        start,
        z=z,
        drift=drift,
        row_shift=rows,
        **{n: v if n in PER_DETECTOR else float(v) for n, v in scales.items()},
        share_wide=float(pyro.sample("share_wide", dist.Beta(*FREQUENT))),
        share_coarse=float(pyro.sample("share_coarse", dist.Beta(*RARE))),
        abundance=sample_abundance(scan.prior),
    )
    if scan.material.codopant is not None:
        share = pyro.sample("share_codopant", dist.Beta(*EVEN))
        world = replace(world, share_codopant=float(share))
    world = sample_sites(scan, _sample_tone(world))
    world = _sample_signal(scan, world)
    view = look(scan, world, shared)
    if scan.log_dose is not None:
        known = log_prior_of_dose(scan, world.signal, world.slope, view.values)
        pyro.factor("dose", known)
    pixels = dist.Normal(view.expected, view.variance.sqrt())
    pixels = pixels.mask(True if scan.valid is None else scan.valid)
    pyro.sample("pixels", pixels.to_event(3), obs=scan.image)
    return world


def _origin(scan: Scan) -> Tensor:
    """Coordinates of the middle of the prior."""
    return torch.zeros(len(scan.coordinates.names), dtype=torch.float64)


def _sample_tone(world: World) -> World:
    """Sample the mean excess of the columns of each kind of site, and its size."""
    scale = torch.full_like(world.tone_size, TONE_SIZE)
    size = pyro.sample("tone_size", dist.HalfNormal(scale).to_event(1))
    law = dist.Normal(0.0, size[:, None, None].expand_as(world.tone))
    return replace(world, tone=pyro.sample("tone", law.to_event(3)), tone_size=size)


def sample_sites(scan: Scan, world: World) -> World:
    """Sample what every site holds, and where and how bright its column is.

    Parameters
    ----------
    scan : Scan
        Those of its sites that are not ``updated`` are perfect, at the means of displacement
        and excess.
    world : World
        Gives abundances, scales, shares and the mean displacement.

    Returns
    -------
    World
        With its sites.
    """
    log_share, drawn = log_share_of_species(scan, world)[scan.kind], scan.updated
    with pyro.plate("site", len(scan.kind)), pyro.poutine.mask(mask=drawn):
        species = pyro.sample("species", dist.Categorical(logits=log_share))
        is_wide = pyro.sample("is_wide", dist.Bernoulli(torch.tensor(world.share_wide)))
        is_coarse = pyro.sample("is_coarse", dist.Bernoulli(torch.tensor(world.share_coarse)))
        species = torch.where(drawn, species, PERFECT[scan.kind])
        is_wide, is_coarse = drawn & is_wide.bool(), drawn & is_coarse.bool()
        world = replace(world, species=species, is_wide=is_wide, is_coarse=is_coarse)
        spread = spread_of_sites(world)[:, None].expand(-1, 2)
        own = pyro.sample("own", dist.Normal(0.0, spread).to_event(1))
        covariance = covariance_of_excess(world.scatter, world.is_coarse)
        mean = scan.mean_excess(world.tone)
        excess = pyro.sample("excess", dist.MultivariateNormal(mean, covariance))
        _sample_held(species, log_share)
    own = torch.where(drawn[:, None], own, 0.0)
    excess = torch.where(drawn[:, None], excess, mean)
    return replace(world, shift=scan.basis @ world.drift + own, excess=excess)


def _sample_held(species: Tensor, log_share: Tensor) -> None:
    """Sample what sites hold that look as if they held some species; no pixel tells of it."""
    is_misleading = pyro.sample("is_misleading", dist.Bernoulli(torch.tensor(MISLEADING))).bool()
    with pyro.poutine.mask(mask=is_misleading):
        other = pyro.sample("other", dist.Categorical(logits=log_share))
    pyro.deterministic("held", torch.where(is_misleading, other, species))


def _sample_signal(scan: Scan, world: World) -> World:
    """Sample what is linear, and the noise."""
    values = scan.coordinates.values(world.z[None])
    size = error_size(values, world.additivity).float()[:, None]
    each = torch.zeros(len(scan.image))
    precision = scan.film.precision(world.film_size).float()
    film = dist.MultivariateNormal(torch.zeros_like(world.film), precision_matrix=precision)
    errors = dist.Normal(torch.zeros_like(world.errors), size).to_event(2)
    return replace(
        world,
        signal=pyro.sample("signal", dist.LogNormal(each, WIDE_LOG).to_event(1)),
        film=pyro.sample("film", film.to_event(1)),
        errors=pyro.sample("errors", errors),
        floor=pyro.sample("floor", dist.Normal(each, FLAT).to_event(1)),
        slope=pyro.sample("log_slope", dist.Normal(each, WIDE_LOG).to_event(1)).exp(),
    )


def values_of(scan: Scan, world: World) -> dict[str, Tensor]:
    """Values of the sites of the program in one world.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Such as a chain draws.

    Returns
    -------
    dict of str to Tensor
        For ``pyro.condition``.
    """
    names = (
        "z", "drift", *JITTERS, "disorder", "scatter", "additivity", "share_wide", "share_coarse",
        "species", "tone_size", "tone", "excess", "signal", "film_size", "film", "errors", "floor",
    )  # fmt: skip
    values = {n: torch.as_tensor(getattr(world, n)) for n in names}
    shares = world.abundance.double().gather(-1, scan.prior.order)
    left = 1 - shares.cumsum(-1) + shares
    fraction = (shares / left.clamp(min=LEAST_SHARE)).clamp(0, 1)[scan.prior.is_free]
    if scan.material.codopant is not None:
        values["share_codopant"] = torch.tensor(world.share_codopant)
    return values | {
        "rows": world.row_shift,
        "fraction": fraction.float().clamp(TINY, 1 - TINY),
        "is_wide": world.is_wide.float(),
        "is_coarse": world.is_coarse.float(),
        "is_misleading": torch.zeros(len(scan.kind)),
        "other": world.species,
        "own": world.shift - scan.basis @ world.drift,
        "log_slope": world.slope.log(),
    }
