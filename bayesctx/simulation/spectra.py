"""Fourier coefficients of images: the responses of all species, summed over the columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..context import Detector, Probe
from ..crystal import HOSTS, METALS, THERMAL_DISPLACEMENT
from ..defects import CODOPED_SPECIES, DOPED_SPECIES, SPECIES
from ..fourier import bandwidth, column_phases, column_spectra, structure_factor
from ..optics import wavelength
from ..responses import LookUp, load_table, pair_overlap
from .scene import HOST_COLUMNS, Scene

__all__ = [
    "add_columns",
    "additivity_error",
    "detector_spectra",
    "image_bandwidth",
    "image_spectra",
    "patch_spectra",
]

# upper bound of the share of a peak beyond the frequencies of an image; measured, the error of a
# patch is below 1e-3 of its range
TOLERANCE = 2e-3
# Å, thermal displacement of the centre of mass of a pair of the heaviest atoms
SMALLEST_DISPLACEMENT = min(THERMAL_DISPLACEMENT.values()) / math.sqrt(2)
PAIRS = [i for i, s in enumerate(SPECIES) if len(s.slots) == 2]


@functools.cache
def _table(device: torch.device) -> LookUp:
    """Positions in the table of responses of all columns, shape (host, dopant, column)."""
    # first every species, then the upper atoms of the pairs, then the lower ones
    columns = []
    for host in HOSTS:
        for dopant in METALS:
            species = [s.column(host, dopant) for s in SPECIES]
            columns += species + [(species[i][side],) for side in (0, 1) for i in PAIRS]
    return load_table().look_up(columns).reshape(len(HOSTS), len(METALS), -1).to(device)


def additivity_error(beam_energy: Tensor, inner_collection_angle: Tensor, tilt: Tensor) -> Tensor:
    """Error of the ratio of columns that are added without their interference.

    It decreases with the spatial frequency of the innermost wave on the detector, and grows as a
    tilt shears the pairs (benchmarks/additivity.py).

    Parameters
    ----------
    beam_energy : Tensor
        In eV.
    inner_collection_angle : Tensor
        In mrad.
    tilt : Tensor
        In degrees.

    Returns
    -------
    Tensor
        Relative rms error.
    """
    frequency = inner_collection_angle * 1e-3 / wavelength(beam_energy)
    flat = 0.003 + 0.02 * torch.exp(-2 * (frequency - 1.2).clamp(min=0))
    return torch.hypot(flat, 0.03 * (tilt / 5) ** 2)


def image_spectra(
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    deviation: Tensor,
    *,
    cell: tuple[float, float],
    num_modes: tuple[int, int] | None = None,
) -> Tensor:
    """Fourier coefficients of the image of every species.

    Parameters
    ----------
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context.
    nuisances : mapping of str to Tensor, shape (image,)
        See ``nuisances.NUISANCES``.
    deviation : Tensor, shape (image, species)
        Errors of additivity, in standard deviations.
    cell : tuple of float
        Periods (Lx, Ly) in Å.
    num_modes : tuple of int, optional
        Largest orders of the spatial frequencies. Default: as many as the images need.

    Returns
    -------
    Tensor, shape (image, species, qy, qx)
        Complex, as a fraction of the beam.
    """
    rings = {n: image[n][:, None] for n in ("inner_collection_angle", "outer_collection_angle")}
    given = dict(image) | rings, nuisances, deviation[:, None]
    return detector_spectra(*given, cell=cell, num_modes=num_modes)[:, 0]


def detector_spectra(
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    deviation: Tensor,
    *,
    cell: tuple[float | Tensor, float | Tensor],
    num_modes: tuple[int, int] | None = None,
    refinement: int = 1,
    kept: Sequence[int] | None = None,
) -> Tensor:
    """Fourier coefficients of the images of every species on several detectors of one scan.

    Parameters
    ----------
    image : mapping of str to Tensor, shape (image,)
        ``host`` and ``dopant`` by index, and the continuous context; the collection angles have
        the shape (image, detector). Of co-doped crystals also ``codopant``, whose species is
        ``CODOPED_SPECIES``.
    nuisances : mapping of str to Tensor, shape (image,)
        See ``nuisances.NUISANCES``.
    deviation : Tensor, shape (image, detector, species)
        Errors of additivity, in standard deviations.
    cell : tuple of float or Tensor
        Periods (Lx, Ly) in Å.
    num_modes : tuple of int, optional
        Largest orders of the spatial frequencies. Default: as many as the images need.
    refinement : int, optional
        See ``transfer.transfer``.
    kept : sequence of int, optional
        Species, index into ``SPECIES``; default: all.

    Returns
    -------
    Tensor, shape (image, detector, species, qy, qx)
        Complex, as a fraction of the beam.

    Notes
    -----
    The transfer function is that of the probe: it is computed once for all detectors, whose columns
    are treated as more columns of the same image.
    """
    if "codopant" in image:
        given = {"cell": cell, "num_modes": num_modes, "refinement": refinement}
        return _codoped_spectra(image, nuisances, deviation, given, kept)
    probe, detector = Probe.of({**nuisances, **image}), Detector.of(image)
    energy, inner = probe.beam_energy, detector.inner_collection_angle
    material = (image[n][:, None].expand(inner.shape) for n in ("host", "dopant"))
    table = _table(energy.device)[tuple(material)]
    chosen = tuple(range(len(SPECIES)) if kept is None else kept)
    species, atoms, pairs = (v.to(energy.device) for v in _columns_of(chosen))
    azimuth = nuisances["tilt_azimuth"]
    direction = torch.stack([azimuth.cos(), azimuth.sin()], -1)
    slope = nuisances["tilt"].deg2rad().tan()[:, None] * direction
    error = additivity_error(energy[:, None], inner, nuisances["tilt"][:, None])
    share = 1 + deviation[..., species] * (error * nuisances["additivity"][:, None])[..., None]
    tilted = bool(slope.any())
    num_modes = num_modes or tuple(
        math.ceil(float(image_bandwidth(image, nuisances).max()) * length) for length in cell
    )
    columns = table[:, :, torch.cat([species, atoms]) if tilted else species]
    if tilted:
        given = slope.norm(dim=-1), energy, inner
        share = torch.cat([share, *_split(share, columns.height, pairs, *given)], -1)
    coefficients = load_table().coefficients(columns, energy[:, None], detector)
    positions = columns.height[..., None] * slope[:, None, None] if tilted else None
    spectra = column_spectra(
        (coefficients * share[..., None, None]).flatten(1, 2),
        (columns.displacement * nuisances["vibration"][:, None, None]).flatten(1, 2),
        probe,
        cell=cell,
        num_modes=num_modes,
        positions=positions.flatten(1, 2) if tilted else None,
        refinement=refinement,
    ).unflatten(1, share.shape[1:])
    whole, alone = spectra.split([len(species), share.shape[2] - len(species)], 2)
    return whole.index_add(2, pairs.repeat(2), alone) if tilted else whole


def _codoped_spectra(
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    deviation: Tensor,
    given: Mapping[str, object],
    kept: Sequence[int] | None,
) -> Tensor:
    """Coefficients of the species of co-doped crystals, that with the second dopant as the last."""
    kept = range(CODOPED_SPECIES + 1) if kept is None else kept
    plain = {n: v for n, v in image.items() if n != "codopant"}
    first = [k for k in kept if k != CODOPED_SPECIES]
    found = []
    if first:
        own = deviation[..., : len(SPECIES)]
        found.append(detector_spectra(plain, nuisances, own, **given, kept=first))
    if len(first) < len(kept):
        other = plain | {"dopant": image["codopant"]}
        own = deviation[..., CODOPED_SPECIES:].expand(*deviation.shape[:-1], len(SPECIES))
        found.append(detector_spectra(other, nuisances, own, **given, kept=[DOPED_SPECIES]))
    order = [*first, CODOPED_SPECIES]
    return torch.cat(found, 2)[:, :, [order.index(k) for k in kept]]


@functools.cache
def _columns_of(kept: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of the table of some species, of the atoms of pairs, and positions of the pairs."""
    places = [k for k, species in enumerate(kept) if species in PAIRS]
    order = [PAIRS.index(kept[k]) for k in places]
    atoms = [len(SPECIES) + side * len(PAIRS) + k for side in (0, 1) for k in order]
    return tuple(torch.tensor(v, dtype=torch.long) for v in (kept, atoms, places))


def _split(
    share: Tensor,
    height: Tensor,
    pairs: Tensor,
    slope: Tensor,
    beam_energy: Tensor,
    inner: Tensor,
) -> list[Tensor]:
    """Subtract from pairs in place, and return, the shares of atoms that scatter separately."""
    upper, lower = height[..., share.shape[-1] :].unflatten(-1, (2, -1)).unbind(-2)
    slope, beam_energy, inner = slope[:, None, None], beam_energy[:, None, None], inner[..., None]
    alone = share[..., pairs] * (
        1 - pair_overlap((lower - upper) * slope, lower - upper, beam_energy, inner)
    )
    share[..., pairs] -= alone
    return [alone, alone]


def image_bandwidth(image: Mapping[str, Tensor], nuisances: Mapping[str, Tensor]) -> Tensor:
    """Largest spatial frequency of every image.

    Parameters
    ----------
    image, nuisances : mapping of str to Tensor, shape (image,)
        See ``image_spectra``.

    Returns
    -------
    Tensor, shape (image,)
        In 1/Å.
    """
    smallest = SMALLEST_DISPLACEMENT * nuisances["vibration"]
    return bandwidth(Probe.of({**nuisances, **image}), smallest, tolerance=TOLERANCE)


def patch_spectra(spectra: Tensor, scene: Scene, *, cell: tuple[float, float]) -> Tensor:
    """Add up the columns of a scene.

    Parameters
    ----------
    spectra : Tensor, shape (image, species, qy, qx)
        Coefficients of one column of every species.
    scene : Scene
        Where the columns are.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (image, patch, qy, qx)
        Coefficients of every patch.
    """
    modes = (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2)
    factors = structure_factor(scene.positions, scene.weights, cell=cell, num_modes=modes)
    metal, chalcogen = (spectra[:, None, i] for i in HOST_COLUMNS)
    total = torch.addcmul(metal * factors[:, :, 0], chalcogen, factors[:, :, 1])
    return _add_special(total.flatten(0, 1), spectra, scene, cell).view(total.shape)


def _add_special(total: Tensor, spectra: Tensor, scene: Scene, cell: tuple[float, float]) -> Tensor:
    """Add the columns that differ from the host to spectra of shape (patch, qy, qx)."""
    modes = (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2)
    species = scene.special_species + torch.arange(len(spectra), device=spectra.device)[
        :, None, None
    ] * len(SPECIES)
    num_used = (scene.special_weights > 0).sum(-1).flatten()
    # sorted by the number of such columns, so that those with a k-th one are the first patches
    order = num_used.argsort(descending=True, stable=True)
    species, positions = (v.flatten(0, 1)[order] for v in (species, scene.special_positions))
    at_x, at_y = column_phases(positions, cell=cell, num_modes=modes)
    responses, sums = spectra.flatten(0, 1), total[order]
    slots = torch.arange(species.shape[-1], device=num_used.device)
    for k, num in enumerate((num_used[:, None] > slots).sum(0).cpu().tolist()):
        response = responses[species[:num, k]]
        response *= at_y[:num, k, :, None]
        sums[:num].addcmul_(response, at_x[:num, k, None, :])
    return sums[order.argsort()]


def add_columns(
    spectra: Tensor, positions: Tensor, species: Tensor, *, cell: tuple[float, float]
) -> Tensor:
    """Add up the columns of one large image.

    Parameters
    ----------
    spectra : Tensor, shape (species, qy, qx)
        Coefficients of one column of every species.
    positions : Tensor, shape (column, 2)
        In Å.
    species : Tensor of int, shape (column,)
        Index into ``SPECIES``.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (qy, qx)
        Coefficients of the image.
    """
    total, modes = (
        torch.zeros_like(spectra[0]),
        (spectra.shape[-1] - 1, (spectra.shape[-2] - 1) // 2),
    )
    for kind in species.unique():
        at = positions[species == kind]
        total += spectra[kind] * structure_factor(
            at, torch.ones_like(at[:, 0]), cell=cell, num_modes=modes
        )
    return total
