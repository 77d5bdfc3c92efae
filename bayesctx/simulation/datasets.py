"""Simulated patches and micrographs as labelled Datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..checks import check_memory, check_number, check_seed, check_whole_number, shorten
from ..context import CONTEXT, NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, FIRST_SITE, SITES, SPECIES
from ..evidence import check_context
from ..nuisances import NUISANCES
from ..prior import CONTINUOUS, Prior
from ..raster import synthesize
from ..tensors import join, pixel_axis, take
from .codopants import describe_columns, draw_codopants
from .latents import BLOCK, MAX_INDEX, draw_block, draw_centres, draw_images, generators
from .rendering import detect
from .scene import name_species, place_crystal
from .spectra import add_columns, detector_spectra
from .stream import check_prior, check_size

__all__ = ["simulate", "simulate_micrograph"]


def simulate(
    prior: Prior,
    num_patches: int,
    *,
    seed: int,
    start: int = 0,
    noise: bool = True,
    progress: bool = False,
) -> xr.Dataset:
    """Simulate labelled patches, each from an image of its own.

    Parameters
    ----------
    prior : Prior
        Prior of the patches, e.g. ``tmd_prior()``.
    num_patches : int
        Number of patches, at most 1e6; ``write_shards`` writes more.
    seed : int
        Seed of the stream, >= 0. Patch i of a stream does not depend on how many are drawn.
    start : int
        Index of the first patch in the stream, >= 0.
    noise : bool
        Draw counts; otherwise ``intensity`` is the expected one.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension image
        ``intensity`` (image, y, x) in counts times the gain, the truth ``defect`` and ``species``,
        and every variable of the context and every nuisance by name. ``concentration`` (image,
        defect_class) is the share of a class among the sites of the first kind that can hold it.

    Raises
    ------
    TypeError
        If ``prior`` is no prior, or ``num_patches``, ``seed`` or ``start`` no integer.
    ValueError
        If a number is out of range, or the patches do not fit into memory.

    Examples
    --------
    >>> from bayesctx.prior import tmd_prior
    >>> data = simulate(tmd_prior(), 2, seed=0)
    >>> dict(data.intensity.sizes)
    {'image': 2, 'y': 32, 'x': 32}
    """
    check_seed(seed)
    num_patches = check_whole_number("num_patches", num_patches, 1, MOST_PATCHES)
    start = check_whole_number("start", start, 0, MAX_INDEX)
    check_size(prior, num_patches)
    first, last = start // BLOCK, -(-(start + num_patches) // BLOCK)
    blocks = [
        draw_block(prior, seed, b, noise=noise)
        for b in tqdm(range(first, last), disable=not progress, unit="block")
    ]
    skipped = start - first * BLOCK
    drawn = take(join(blocks), skipped, skipped + num_patches)
    host = np.array(list(HOSTS))[drawn.host.numpy()]
    dopant = np.array(METALS)[drawn.dopant.numpy()]
    label = dopant if prior.is_doped else np.full(num_patches, NO_DOPANT)
    sampling = {"sampling": torch.full((num_patches,), prior.sampling, dtype=torch.float64)}
    variables = {
        "intensity": (("image", "y", "x"), drawn.intensity[:, 0].numpy(), {"units": "counts"}),
        "defect": ("image", np.array(DEFECTS)[drawn.defect[:, 0].numpy()]),
        "species": ("image", name_species(drawn.species[:, 0].numpy(), host, dopant)),
        "host": ("image", host),
        "dopant": ("image", label),
    } | {
        name: ("image", value.reshape(num_patches).numpy(), attributes)
        for name, value, attributes in _image_variables(drawn.context | sampling, drawn.nuisances)
    }
    abundance = _shares(drawn.nuisances["concentration"])
    variables["concentration"] = (("image", "defect_class"), abundance, {"units": "1"})
    axis = (np.arange(prior.num_pixels) - (prior.num_pixels - 1) / 2) * prior.sampling
    coords = {
        "y": ("y", axis, {"units": "Å"}),
        "x": ("x", axis, {"units": "Å"}),
        "defect_class": list(DEFECTS),
    }
    return xr.Dataset(variables, coords, {"seed": seed, "start": start})


def _image_variables(
    context: Mapping[str, Tensor | float], nuisances: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor | float, dict[str, str]]]:
    """Name, value and attributes of the numbers of the context and of the nuisances."""
    for name in ("sampling", *CONTINUOUS):
        yield name, context[name], {"units": CONTEXT[name].unit}
    for name, (unit, _) in NUISANCES.items():
        yield name, nuisances[name], {"units": unit}


def _shares(abundance: Tensor) -> np.ndarray:
    """Share of every class on the first kind of site that can hold it, (image, defect_class)."""
    kinds = [SITES[FIRST_SITE[d]] for d in DEFECTS]
    is_same = abundance.new_tensor([[float(d in kind) for d in DEFECTS] for kind in kinds])
    return (abundance / (abundance @ is_same.T).clamp(min=SMALLEST)).numpy()


PADDING = 5.0  # Å of crystal around a micrograph
MAX_FIELD, MAX_PIXELS = 1000.0, 8192  # Å and pixels along each side of a micrograph
MOST_PATCHES = 10**6  # of simulate
BYTES_PER_PIXEL = 70  # of memory for a micrograph, measured
SMALLEST = 1e-38  # sum of abundances


ANGLES_OF_DETECTOR = ("inner_collection_angle", "outer_collection_angle")
OWN_OF_DETECTOR = (
    "background", "background_slope_x", "background_slope_y", "gain", "dark_level", "readout",
)  # fmt: skip
"""Nuisances that are drawn for every detector of a scan."""
FIRST_STREAM = 1 << 32  # of random numbers of further detectors, beyond all numbers of patches


@torch.no_grad()
def simulate_micrograph(
    prior: Prior,
    *,
    seed: int,
    num_pixels: int = 512,
    sampling: float = 0.2,
    index: int = 0,
    detectors: Mapping[str, Mapping[str, float]] | None = None,
) -> xr.Dataset:
    """Simulate a whole micrograph with the truth of every site.

    Parameters
    ----------
    prior : Prior
        Prior of the image; ``prior.given(context)`` fixes what is known.
    seed : int
        Seed of the stream, >= 0.
    num_pixels : int
        Pixels along each side.
    sampling : float
        Size of a pixel in Å.
    index : int
        Index of the image in the stream, >= 0.
    detectors : mapping of str to mapping of str to float, optional
        Several detectors that record one scan: of each, by its name, ``inner_collection_angle`` and
        ``outer_collection_angle`` in mrad. They share probe, crystal, scan rows and dose; each has
        its own errors of additivity, background, gain, dark level and readout noise.

    Returns
    -------
    Dataset
        ``intensity`` (y, x), with ``detectors`` (detector, y, x), in counts times the gain; for
        every lattice site in the image ``site_y`` and ``site_x`` in pixels, ``defect`` and
        ``species`` over the dimension patch; context, nuisances and ``concentration`` without the
        dimension image, and what each detector has of its own over the dimension detector. Of a
        co-doped crystal ``species`` names the dopant of a site, and ``dopant_share`` (codopant) is
        the share of both among the sites that hold one.

    Raises
    ------
    TypeError
        If ``prior`` is no prior, ``seed``, ``num_pixels`` or ``index`` no integer, ``sampling`` no
        number, or ``detectors`` no mapping of mappings.
    ValueError
        If ``seed`` or ``index`` is negative, the angles of a detector are not two numbers that go
        with the probe, or the image is smaller than a patch, larger than
        1000 Å or 8192 pixels, or does not fit into memory.
    """
    check_seed(seed)
    index = check_whole_number("index", index, 0, MAX_INDEX)
    rings = None if detectors is None else _check_detectors(detectors)
    num_detectors = 1 if rings is None else len(rings)
    num_pixels, sampling = _check_field(prior, num_pixels, sampling, num_detectors)
    if rings is not None:
        # the innermost ring is the one that limits the semi-angle of the probe
        prior = prior.given(min(rings.values(), key=lambda r: r["inner_collection_angle"]))
    rng = generators(seed, 0, index)
    image, nuisances = _draw_field(rng, prior, num_pixels * sampling)
    if rings is not None:
        image |= {n: torch.tensor([[r[n] for r in rings.values()]]) for n in ANGLES_OF_DETECTOR}
        nuisances |= _draw_detectors(prior, nuisances, seed, index, num_pixels * sampling, rings)
    cell = (num_pixels * sampling + 2 * PADDING,) * 2
    sites, columns, species = place_crystal(rng[2], image["host"], nuisances, cell[0])
    species = draw_codopants(rng[2], species, image)
    intensity = _render_field(
        rng[3], image, nuisances, columns, species, pixel_axis(num_pixels, sampling), sampling, cell
    )
    pixels = sites / sampling + (num_pixels - 1) / 2
    inside = ((pixels > -0.5) & (pixels < num_pixels - 0.5)).all(-1)
    named, coords = describe_columns(prior, image, species[inside].numpy())
    own = () if rings is None else ("detector",)
    variables = {
        "intensity": (
            (*own, "y", "x"), (intensity[0] if rings is None else intensity).numpy(),
            {"units": "counts"},
        ),
        "site_y": ("patch", pixels[inside, 1].numpy(), {"units": "px"}),
        "site_x": ("patch", pixels[inside, 0].numpy(), {"units": "px"}),
        **named,
        "concentration": ("defect_class", _shares(nuisances["concentration"])[0], {"units": "1"}),
    }  # fmt: skip
    for name, value, attributes in _image_variables(image | {"sampling": sampling}, nuisances):
        each = rings is not None and name in (*ANGLES_OF_DETECTOR, *OWN_OF_DETECTOR)
        found = value.numpy()[0] if each else float(value)
        variables[name] = (own if each else (), found, attributes)
    coords |= {"defect_class": list(DEFECTS)}
    coords |= {} if rings is None else {"detector": list(rings)}
    return xr.Dataset(variables, coords, {"seed": seed, "index": index})


def _check_detectors(detectors: object) -> dict[str, dict[str, float]]:
    """Angles of several detectors by name."""
    is_right = isinstance(detectors, Mapping) and all(
        isinstance(r, Mapping) and set(r) == set(ANGLES_OF_DETECTOR) for r in detectors.values()
    )
    if not is_right or not detectors:
        raise TypeError(
            "detectors were expected as a mapping of name to inner_collection_angle and "
            f"outer_collection_angle, got {shorten(detectors)}; for example {{'ADF': "
            "{'inner_collection_angle': 60.0, 'outer_collection_angle': 200.0}}"
        )
    found = {}
    for name, ring in detectors.items():
        checked = check_context(ring)
        wrong = [n for n, v in checked.items() if not isinstance(v, float)]
        if wrong or not isinstance(name, str):
            raise ValueError(
                f"a name and two numbers were expected of a detector, got {shorten(name)}: "
                f"{shorten(dict(ring))}; simulate a scan for each value"
            )
        found[name] = checked
    return found


def _draw_detectors(
    prior: Prior,
    first: Mapping[str, Tensor],
    seed: int,
    index: int,
    extent: float,
    rings: Mapping[str, object],
) -> dict[str, Tensor]:
    """Nuisances of every detector, shape (1, detector); those of the first are given."""
    further = [
        _draw_field(generators(seed, FIRST_STREAM + k, index), prior, extent)[1]
        for k in range(1, len(rings))
    ]
    return {n: torch.cat([v[n].view(1, 1) for v in (first, *further)], 1) for n in OWN_OF_DETECTOR}


def _check_field(
    prior: Prior, num_pixels: int, sampling: float, num_detectors: int
) -> tuple[int, float]:
    """Pixels of a micrograph that is neither smaller than a patch nor too large to compute."""
    check_prior(prior)
    num_pixels = check_whole_number("num_pixels", num_pixels, 1, MAX_INDEX)
    sampling = check_number(sampling, CONTEXT["sampling"].label)
    least = prior.num_pixels * prior.sampling
    if not least <= num_pixels * sampling <= MAX_FIELD or num_pixels > MAX_PIXELS:
        raise ValueError(
            f"a field of at least {least:g} Å, at most {MAX_FIELD:g} Å and {MAX_PIXELS} pixels was "
            f"expected, got {num_pixels} pixels of {sampling} Å; change num_pixels or sampling"
        )
    num_bytes = BYTES_PER_PIXEL * num_pixels**2 * num_detectors
    check_memory(num_bytes, f"{num_pixels} x {num_pixels} pixels")
    return num_pixels, sampling


def _draw_field(
    rng: list[np.random.Generator], prior: Prior, extent: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Context and nuisances of one micrograph, shape (1,) or (1, 1)."""
    image, nuisances = draw_images(rng[0], prior, 1)
    _, _, own = draw_centres(rng[1], prior, 1, 1)
    # no site is at the centre, and the contamination varies over the image as over a patch
    ratio = prior.num_pixels * prior.sampling / extent
    return image, nuisances | {
        n: v * ratio if n.startswith("background") else v * (n == "rotation")
        for n, v in own.items()
    }


def _render_field(
    rng: np.random.Generator,
    image: Mapping[str, Tensor],
    nuisances: Mapping[str, Tensor],
    columns: Tensor,
    species: Tensor,
    axis: Tensor,
    sampling: float,
    cell: tuple[float, float],
) -> Tensor:
    """Noisy images of the columns of one micrograph, shape (detector, y, x)."""

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    rings = {n: image[n].view(1, -1) for n in ANGLES_OF_DETECTOR}
    num = rings["inner_collection_angle"].shape[1]
    deviation = normal(1, num, len(SPECIES))
    if "codopant" in image:
        deviation = torch.cat([deviation, normal(1, num, 1)], -1)
    spectra = detector_spectra(image | rings, nuisances, deviation, cell=cell)[0]
    spectrum = torch.stack([add_columns(s, columns, species, cell=cell) for s in spectra])
    shift = normal(len(axis)) * nuisances["line_jitter"]
    clean = synthesize(spectrum, axis, axis, cell=cell, row_shift=shift)
    exposure = (image["dose"] * sampling**2)[:, None, None, None]
    found, axis = [], axis[None, None]
    for k, own in enumerate(clean[:, None, None]):
        mine = {n: v.view(1, -1)[:, k] if n in OWN_OF_DETECTOR else v for n, v in nuisances.items()}
        numbers = [normal(*own.shape) for _ in range(2)]
        found.append(detect(own, axis, axis, exposure, mine, *numbers)[0, 0])
    return torch.stack(found)
