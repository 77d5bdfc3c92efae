"""Worlds of a large scan: shared variables by a window of it, all else by all of its pixels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .chain import Draw, log_prob_of_pixels
from .collapsed import draw_abundances
from .conditional import IS_DOPED
from .dopants import best_dopant, draw_dopant, with_dopant, with_errors_of_host
from .noise import correlation_of_residuals, draw_noise
from .occupation import draw_occupation, draw_share_of_codopant
from .rows import draw_rows
from .scale_prior import PER_DETECTOR
from .signal import draw_brightness
from .view import View, look, rescaled, spectra_of
from .windows import Tile
from .world import JITTERS, Scan, World, begin

__all__ = ["Mosaic", "cover", "spread"]

WARMUP = 10  # rounds
BLOCK, MOST_BLOCKS = 4, 10  # rounds over which the density is averaged, and most of these
GIVEN = "z", "additivity", "errors"  # of the window by which the shared variables are sampled
OF_SITES = "species", "shift", "excess", "is_wide", "is_coarse"
WIDTHS, SHARES = ("disorder", *JITTERS), ("share_wide", "share_coarse")
SCALES = "floor", "slope", *PER_DETECTOR, *WIDTHS, *SHARES
"""Of every window."""


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Worlds of windows that cover a scan.

    Attributes
    ----------
    scan : Scan
        The whole scan.
    tiles : sequence of Tile
        The windows.
    worlds : sequence of World
        Of each.
    probability : sequence of Tensor, shape (site, species)
        Of the species of the sites of each given all else.
    log_prob : float
        Log density of the valid pixels given the worlds, in nats.
    correlation : Tensor, shape (detector, 2, 2), or None
        Of the residuals of neighbouring pixels, see ``Draw``.
    """

    scan: Scan
    tiles: Sequence[Tile]
    worlds: Sequence[World]
    probability: Sequence[Tensor] = ()
    log_prob: float = math.nan
    correlation: Tensor | None = None


def cover(
    scan: Scan,
    tiles: Sequence[Tile],
    world: World,
    seed: int,
    species: Tensor | None = None,
    dopants: Sequence[int] = (),
) -> Mosaic:
    """Worlds of a whole scan that go with the world of a window of it.

    Parameters
    ----------
    scan : Scan
        The whole scan, with the dopant of the world.
    tiles : sequence of Tile
        Windows that cover it.
    world : World
        Of one window, which need not be one of these.
    seed : int
        Of the draws.
    species : Tensor of int, shape (site,), optional
        Where to begin; default: a perfect crystal.
    dopants : sequence of int
        Metals that may be the dopant, of which a window without one tells nothing.

    Returns
    -------
    Mosaic
        Of which the density of the pixels does not rise any more.

    Notes
    -----
    Sites and rows are drawn ``WARMUP`` times at the noise and the scales of the world: noise and
    scales that were drawn would take what sites do not explain yet. So would abundances that are
    drawn with the sites summed out, while the mean excess is not found: metals that are brighter by
    a per cent all over a scan would become a dopant. Then scales and abundances are drawn too,
    until they are those of the whole scan: where it is less even than the window, columns that are
    brighter than the others are another species for so long. At last the dopant is taken that
    explains all metal sites best.
    """
    worlds = []
    for tile in tiles:
        own = begin(tile.scan, world.z, None if species is None else species[tile.sites])
        drift = own.drift.clone()
        drift[0] = world.drift[0]
        shift = own.shift + drift[0]
        worlds.append(replace(own, drift=drift, shift=shift, abundance=world.abundance))
    mosaic = Mosaic(scan, _with_dopant(tiles, scan.material.dopant), worlds)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(WARMUP):
        mosaic = _with_scales(_advance(mosaic, world, generator), world)
    mosaic = _settled(mosaic, world, generator)
    if len(dopants) < 2:
        return mosaic
    best = best_dopant(_seen(mosaic), dopants)
    if best == scan.material.dopant:
        return mosaic
    mosaic = replace(mosaic, tiles=_with_dopant(tiles, best))
    return _settled(mosaic, with_errors_of_host(world), generator)


def _settled(mosaic: Mosaic, world: World, generator: torch.Generator) -> Mosaic:
    """Draw everything until the density rises by less in some rounds than draws differ."""
    number = len(mosaic.scan.kind) * (2 + len(mosaic.scan.image))
    noise, reached = math.sqrt(number / 2), []
    for _ in range(MOST_BLOCKS):
        before, reached = reached, []
        for _ in range(BLOCK):
            mosaic = _advance(_with_abundances(mosaic, generator), world, generator)
            reached.append(mosaic.log_prob)
        if before and statistics.fmean(reached) < statistics.fmean(before) + noise:
            break
    return mosaic


def spread(
    mosaic: Mosaic, draws: Iterable[Draw], seed: int, dopants: Sequence[int] = ()
) -> Iterator[Draw]:
    """Draw worlds of a whole scan, given draws of a window of it.

    Parameters
    ----------
    mosaic : Mosaic
        Where to begin, see ``cover``.
    draws : iterable of Draw
        Of the window: a chain.
    seed : int
        Of the draws.
    dopants : sequence of int
        Metals that may be the dopant, equally probable; default: that of the scan.

    Yields
    ------
    Draw
        One for each. Abundances and dopant are drawn given all windows, with what the sites hold
        summed out; sites, rows, signal, film, noise and scales given one; the shared variables, the
        errors of additivity and the dose are those of the given draw. In its world the arrays of
        the sites and the scales are those of the whole scan; rows, film, drift, signal and noise
        are those of the given draw.

    Notes
    -----
    The shared variables learn nothing from the pixels outside of the given window: their posterior
    is cut, see Plummer, Statistics and Computing 25, 37 (2015), doi:10.1007/s11222-014-9503-z.
    So are the errors of additivity: where thousands of sites determined them, a species that hardly
    occurs would take the brightness and then the place of another one, as far as its columns look
    more like what the shared variables of the window leave unexplained. Every window has a signal
    of its own, since the brightness of real images varies over a scan.
    """
    generator = torch.Generator().manual_seed(seed)
    for draw in draws:
        world = draw.world
        if len(dopants) > 1:
            # at brightness and tones that still go with the shared variables
            mosaic = _draw_dopant(mosaic, dopants, generator)
            world = _with_errors_of_dopant(draw, mosaic)
        mosaic = _advance(_with_abundances(mosaic, generator), world, generator)
        yield _join(mosaic, draw)


def _seen(mosaic: Mosaic) -> Iterator[tuple[Scan, World, View, Tensor]]:
    """Windows with their worlds, and sites that are counted there."""
    shared = _spectra(mosaic)
    for tile, world in zip(mosaic.tiles, mosaic.worlds, strict=True):
        yield tile.scan, world, look(tile.scan, world, shared, apart=False), _counted(tile)


def _counted(tile: Tile) -> Tensor:
    """Sites that are drawn and belong to no other window, shape (site,)."""
    return tile.own & tile.scan.updated


def _own_pixels(tile: Tile) -> Tensor:
    """Valid pixels that belong to no other window, shape (y, x)."""
    return tile.core if tile.scan.valid is None else tile.core & tile.scan.valid


def _with_scales(mosaic: Mosaic, world: World) -> Mosaic:
    """Noise and scales of one world for all windows."""
    given = {name: getattr(world, name) for name in SCALES}
    return replace(mosaic, worlds=[replace(w, **given) for w in mosaic.worlds])


def _with_dopant(tiles: Sequence[Tile], dopant: int) -> list[Tile]:
    """The same windows with another dopant."""
    return [
        replace(t, scan=replace(t.scan, material=replace(t.scan.material, dopant=dopant)))
        for t in tiles
    ]


def _advance(mosaic: Mosaic, world: World, generator: torch.Generator) -> Mosaic:
    """Draw everything once, given the shared variables of a world."""
    given = {name: getattr(world, name) for name in GIVEN}
    mosaic = replace(mosaic, worlds=[replace(w, **given) for w in mosaic.worlds])
    shared = _spectra(mosaic)
    pairs = zip(mosaic.tiles, mosaic.worlds, strict=True)
    found = [_sweep(t, w, shared, generator) for t, w in pairs]
    worlds, probability, log_prob, correlation = zip(*found, strict=True)
    sizes = torch.tensor([float(_own_pixels(t).sum()) for t in mosaic.tiles], dtype=torch.float64)
    correlation = torch.stack(correlation, -1) @ sizes / sizes.sum()
    counts = sum(
        t.scan.counts(w.species, _counted(t)) for t, w in zip(mosaic.tiles, worlds, strict=True)
    )
    abundance = mosaic.scan.prior.draw(counts, generator).float()
    worlds = [replace(w, abundance=abundance) for w in worlds]
    if mosaic.scan.material.codopant is not None:
        counted = torch.cat([_counted(t) for t in mosaic.tiles])
        held = torch.cat([w.species for w in worlds])
        share = draw_share_of_codopant(held, counted, generator)
        worlds = [replace(w, share_codopant=share) for w in worlds]
    of_pixels = {"log_prob": sum(log_prob), "correlation": correlation}
    return replace(mosaic, worlds=worlds, probability=probability, **of_pixels)


def _with_abundances(mosaic: Mosaic, generator: torch.Generator) -> Mosaic:
    """Draw abundances whatever the sites hold; these have to be drawn next."""
    abundance = draw_abundances(_seen(mosaic), generator)
    return replace(mosaic, worlds=[replace(w, abundance=abundance) for w in mosaic.worlds])


def _draw_dopant(mosaic: Mosaic, dopants: Sequence[int], generator: torch.Generator) -> Mosaic:
    """Draw the dopant, with abundances and what the metal sites hold if it is another one."""
    doping = draw_dopant(list(_seen(mosaic)), dopants, generator)
    if not doping.is_new:
        worlds = [replace(w, abundance=doping.abundance) for w in mosaic.worlds]
        return replace(mosaic, worlds=worlds)
    pairs = zip(mosaic.tiles, mosaic.worlds, strict=True)
    worlds = [with_dopant(t.scan, w, doping, generator)[1] for t, w in pairs]
    return replace(mosaic, tiles=_with_dopant(mosaic.tiles, doping.metal), worlds=worlds)


def _with_errors_of_dopant(draw: Draw, mosaic: Mosaic) -> World:
    """World of a window; errors of another dopant than its own are those that were drawn here."""
    if draw.material.dopant == mosaic.tiles[0].scan.material.dopant:
        return draw.world
    errors = torch.where(IS_DOPED, mosaic.worlds[0].errors, draw.world.errors)
    return replace(draw.world, errors=errors)


def _spectra(mosaic: Mosaic) -> tuple:
    """Shared variables with their spectra: all windows have the same size."""
    return spectra_of(mosaic.tiles[0].scan, mosaic.worlds[0].z)


def _sweep(
    tile: Tile, world: World, shared: tuple, generator: torch.Generator
) -> tuple[World, Tensor, float, Tensor]:
    """Draw a window given what all share.

    With the probability of species, and log density and correlation of its own pixels.
    """
    scan = tile.scan
    view = look(scan, world, shared, apart=False)
    world = draw_brightness(scan, world, view, generator)
    view = rescaled(scan, world, view)
    world = draw_noise(scan, world, view, generator)
    view = rescaled(scan, world, view)
    world, probability = draw_occupation(scan, world, view, tile.colours, generator)
    view = look(scan, world, shared, apart=False)
    world = draw_rows(scan, world, view, generator)
    view = look(scan, world, shared, view.factors, apart=False)
    own = replace(scan, valid=_own_pixels(tile))
    of_pixels = log_prob_of_pixels(own, view), correlation_of_residuals(own, view)
    return world, probability, *of_pixels


def _join(mosaic: Mosaic, draw: Draw) -> Draw:
    """One draw of the whole scan."""
    scan, worlds = mosaic.scan, mosaic.worlds
    whole = begin(scan, draw.world.z)
    arrays = {name: getattr(whole, name) for name in OF_SITES}
    probability = torch.zeros(len(scan.kind), scan.material.num_species)
    for tile, world, found in zip(mosaic.tiles, worlds, mosaic.probability, strict=True):
        mine = tile.sites[tile.own]
        probability[mine] = found[tile.own]
        for name, values in arrays.items():
            values[mine] = getattr(world, name)[tile.own]
    numbers = torch.tensor([float(t.own.sum()) for t in mosaic.tiles])

    def average(name: str, power: int) -> Tensor:
        values = torch.stack([torch.as_tensor(getattr(w, name)) for w in worlds], -1)
        return ((values**power @ numbers) / numbers.sum()) ** (1 / power)

    scales = {n: float(average(n, 2)) for n in WIDTHS} | {n: float(average(n, 1)) for n in SHARES}
    scales["scatter"] = average("scatter", 2)
    shared = {name: getattr(worlds[0], name) for name in ("abundance", "share_codopant")}
    return replace(
        draw,
        world=replace(draw.world, **shared, **arrays, **scales),
        material=mosaic.tiles[0].scan.material,
        probability=probability,
        log_prob=mosaic.log_prob,
        correlation=mosaic.correlation,
    )
