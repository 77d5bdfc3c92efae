"""infer(): from an image and what is known of it to the posterior of every defect and of the rest of the context."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..context import check_context
from ..crystal import HOSTS
from ..defects import DEFECTS, SITES
from ..exact import ExactModel
from ..micrograph import (
    check_image,
    extend_image,
    extract_patches,
    find_sites,
    fit_lattice,
    patch_margin,
)
from ..model import DefectModel, load_model
from ..prior import CONTINUOUS
from ..storage import warn
from ..tensors import interpolation_matrix
from .arrays import Posterior, store_conflict, store_image, store_patches
from .cases import Question, questions, tabulate
from .conflict import conflict_with, warn_of_conflict, warn_of_strangers
from .image import Sites, one_image
from .patches import NUM_PLAIN, each_patch
from .tree import Layout, build_tree

__all__ = ["infer"]

READINGS = tuple(itertools.permutations(SITES))
"""Which site (metal, chalcogen, hollow) each of the three sublattices of a micrograph is: six readings."""

ENCODED_AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
LOW_ESS = 20.0
# of the context for a patch alone, or one for eight that are returned: more change the score of the classes by 0.001 nats, but
# the posterior of the context itself is too narrow where ten of them carry it
DRAWS_ALONE, RETURNED_FOR_EACH = 128, 8


@functools.cache
def _reference() -> DefectModel:
    """The model that is shipped."""
    return load_model()


@torch.no_grad()
def infer(
    image: xr.DataArray | np.ndarray,
    context: Mapping[str, object] | None = None,
    model: DefectModel | ExactModel | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
) -> xr.DataTree:
    """Infer the defects of an image and what is not known of its context.

    Parameters
    ----------
    image : DataArray or ndarray
        A micrograph (y, x); patches of one image (patch, y, x); or independent images (image, y, x) or
        (image, patch, y, x), told apart by the names of the dimensions. An array without names is a micrograph or a
        patch in two dimensions, and patches of one image in three.
    context : mapping or Dataset, optional
        What is known: host, dopant, beam_energy [eV], convergence_semiangle, inner_collection_angle,
        outer_collection_angle [mrad], defocus [Å], dose [e/Å²], sampling [Å/px]. A number or name is observed, a list
        gives candidates, a Pyro distribution is soft evidence; what is left out is inferred. For independent images a
        value may be an array over them.
    model : DefectModel or ExactModel, optional
        Default: the reference model shipped with the package.
    num_draws : int
        Draws that are returned, and draws of the latent context; a patch that is an image of its own has at most 128 of the
        latter, or an eighth of the former.
    seed : int
        Of the quasi-random draws.

    Returns
    -------
    DataTree
        Groups ``posterior`` (chain, draw, ...), ``class_posterior``, ``log_likelihood``, ``prior``, ``sample_stats``,
        ``observed_data`` and ``constant_data``. ``class_posterior.defect`` (..., patch, defect_class) holds the
        probability of every class of every site.

    Raises
    ------
    TypeError, ValueError
        For an image or a context that cannot be, see ``check_context``.

    Warns
    -----
    UserWarning
        If few draws of the context carry the posterior (``sample_stats.ess``), an image of several patches speaks against
        what was claimed of it (``sample_stats.conflict``), or most patches look like nothing that the prior of the model can
        make (``sample_stats.surprise``).

    Notes
    -----
    Class, host and dopant are enumerated; the continuous context is summed over quasi-random draws from its prior,
    weighted by the likelihood. Where a variable is known of every independent image by more than 64 values and others
    are latent, images of neighbouring values share their draws, at the median of 1/64 of the images.

    The patches of one image share its context. In a micrograph the lattice is fitted, every site is classified, and which
    of its three sublattices is the metal is inferred with the rest; a site at the border is completed by the crystal one
    translation further in. A known host gives the sampling by its lattice constant; otherwise ``sampling`` is needed.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws was expected to be at least 1, got {num_draws}")
    model = (model or _reference()).eval()
    known = check_context(context, model.domains)
    data, layout = _read(image, model)
    if not model.whole_images and (layout.micrograph or data.shape[1] > 1):
        raise ValueError(
            f"patches that are images of their own, (image, y, x), were expected by {type(model).__name__}, got {layout.dims}"
        )
    if layout.micrograph:
        posterior, layout = _infer_micrograph(data, layout, known, model, num_draws, seed)
    else:
        posterior = _infer_patches(_to_sampling(data, known, model), known, model, num_draws, seed)
    drawn = set(posterior.latent) & set(CONTINUOUS)
    if drawn and float(np.median(posterior.ess)) < min(LOW_ESS, num_draws / 2):
        warn(
            f"the posterior rests on {np.median(posterior.ess):.0f} effective draws of the context; "
            "give more of it or raise num_draws",
        )
    warn_of_strangers(posterior.surprise, float(model.card.get("surprise_limit", math.inf)))
    return build_tree(posterior, layout, known, model, seed)


def _read(image: xr.DataArray | np.ndarray, model: DefectModel) -> tuple[np.ndarray, Layout]:
    """Values and layout of what was handed in; patches come as (image, patch, y, x)."""
    named = isinstance(image, xr.DataArray)
    values = np.asarray(
        image.values
        if named
        else image.detach().cpu()
        if isinstance(image, torch.Tensor)
        else image
    )
    if not named and values.ndim == 3 and values.shape[-1] in (3, 4):
        check_image(values)  # of colours, not patches of three pixels
    dims = (
        tuple(map(str, image.dims))
        if named
        else {2: ("y", "x"), 3: ("patch", "y", "x"), 4: ("image", "patch", "y", "x")}.get(
            values.ndim
        )
    )
    if (
        dims is None
        or dims[-2:] != ("y", "x")
        or dims[:-2] not in ((), ("patch",), ("image",), ("image", "patch"))
    ):
        raise ValueError(
            f"dimensions (y, x), (patch, y, x), (image, y, x) or (image, patch, y, x) were expected, got {dims or values.shape}; "
            "transpose the image or select one detector"
        )
    if len(dims) == 2:
        check_image(values)
        small = max(values.shape) <= model.prior.num_pixels
        return values[None, None] if small else values, Layout(
            dims=dims, micrograph=not small, observed=values
        )
    flat = values.reshape(-1, *values.shape[-2:])
    if not len(flat):
        raise ValueError(f"at least one patch was expected, got shape {values.shape}")
    for patch in flat:
        check_image(patch)
    shape = {("patch",): (1, -1), ("image",): (-1, 1), ("image", "patch"): values.shape[:2]}[
        dims[:-2]
    ]
    return values.reshape(*shape, *values.shape[-2:]), Layout(
        dims=dims, micrograph=False, observed=values
    )


def _to_sampling(values: np.ndarray, known: Mapping[str, object], model: DefectModel) -> Tensor:
    """Patches on the pixels of the model."""
    target, num_pixels = model.prior.sampling, model.prior.num_pixels
    given = np.unique(np.asarray(known.get("sampling", target), float))
    if len(given) > 1 or isinstance(
        known.get("sampling"), tuple | torch.distributions.Distribution
    ):
        raise ValueError(
            "one sampling [Å/px] was expected for patches, got several; resample them or call infer for each"
        )
    step = float(given[0])
    patches = torch.as_tensor(np.ascontiguousarray(values, np.float32))
    if patches.shape[-2:] == (num_pixels, num_pixels) and abs(step / target - 1) < 1e-3:
        return patches
    extent = min(values.shape[-2:]) * step
    if extent < num_pixels * target * (1 - 1e-6):
        raise ValueError(
            f"patches of at least {num_pixels * target:g} Å were expected, got {values.shape[-2]} x {values.shape[-1]} pixels of "
            f"{step:g} Å; cut them wider or check the sampling"
        )
    offset = (torch.arange(num_pixels) - (num_pixels - 1) / 2) * (target / step)
    weights = [
        interpolation_matrix(offset + (n - 1) / 2, n, target / step) for n in values.shape[-2:]
    ]
    return weights[0] @ patches @ weights[1].mT


def _observe(chunks: Iterable[Tensor], model: DefectModel) -> tuple[Tensor, np.ndarray | None]:
    """Features and surprise of patches that come in chunks."""
    features, surprise = zip(*map(model.observe, chunks), strict=True)
    return torch.cat(features), None if surprise[0] is None else torch.cat(surprise).numpy()


def _infer_patches(
    patches: Tensor, known: Mapping[str, object], model: DefectModel, num_draws: int, seed: int
) -> Posterior:
    """Posterior of independent images that are one patch each, or of images with several patches."""
    features, surprise = _observe(patches.flatten(0, 1).split(ENCODED_AT_ONCE), model)
    features = features.unflatten(0, patches.shape[:2])
    generator = torch.Generator().manual_seed(seed)
    single = features.shape[1] == 1
    class_weight = torch.tensor(
        [float(d in model.prior.defects) / len(model.prior.defects) for d in DEFECTS]
    )
    result = Posterior.empty(len(features), features.shape[1], num_draws, known)
    result.surprise = None if surprise is None else surprise.reshape(features.shape[:2])
    context_draws = (
        min(num_draws, max(DRAWS_ALONE, num_draws // RETURNED_FOR_EACH)) if single else num_draws
    )
    for question in questions(model.prior, known, len(features), context_draws, seed):
        if single:
            for part in _chunks(question):
                outcomes = model.outcomes(part.context, part.materials)
                own = features[part.images, 0]
                found = each_patch(
                    outcomes,
                    own,
                    part.materials,
                    part.possible,
                    class_weight,
                    num_draws=num_draws,
                    generator=generator,
                )
                store_patches(result, part, found)
        else:
            sites = Sites(
                torch.zeros(features.shape[1], dtype=torch.long),
                torch.zeros(1, 1, dtype=torch.long),
                (class_weight > 0).float()[None] + 1e-9,
            )
            for i, at in enumerate(question.images):
                part = _row(question, i)
                outcomes = tabulate(model, part)
                found = one_image(
                    outcomes,
                    features[at],
                    part.materials.row(0),
                    part.possible[0],
                    sites,
                    float(model.correlation),
                )
                store_image(result, part, found, sites, num_draws, seed)
                claims = {
                    n: v[at].item() if isinstance(v, np.ndarray) else v for n, v in known.items()
                }
                _check(result, at, claims, features[at], sites, model, seed)
    return result


def _check(
    result: Posterior,
    at: int,
    claims: Mapping[str, object],
    features: Tensor,
    sites: Sites,
    model: DefectModel,
    seed: int,
) -> None:
    """Weigh the claims about one image of several patches, and warn of the one that it speaks against."""
    conflict = conflict_with(claims, features, sites, model, seed)
    store_conflict(result, at, conflict)
    warn_of_conflict(conflict, claims, float(model.card.get("conflict_limit", math.inf)))


def _chunks(question: Question, most: int = 200_000) -> list[Question]:
    """Parts of a question whose tables of the likelihood stay small."""
    rows = max(len(v) for v in (*question.context.values(), question.materials.host))
    if rows == 1:
        return [question]
    per_image = (
        next(iter(question.context.values())).shape[1]
        * question.materials.host.shape[-1]
        * (NUM_PLAIN + 2 + question.materials.dopant.shape[-1])
    )
    parts = torch.arange(len(question.images)).split(max(1, most // per_image))
    return [_rows(question, p) for p in parts]


def _rows(question: Question, rows: Tensor) -> Question:
    """Some images of a question."""

    def pick(value: Tensor) -> Tensor:
        return value[rows] if len(value) > 1 else value

    context = {n: pick(v) for n, v in question.context.items()}
    return Question(
        question.images[rows.numpy()],
        context,
        pick(question.possible),
        question.materials.map(pick),
    )


def _row(question: Question, i: int) -> Question:
    """One image of a question."""
    return _rows(question, torch.tensor([i]))


def _infer_micrograph(
    image: np.ndarray,
    layout: Layout,
    known: Mapping[str, object],
    model: DefectModel,
    num_draws: int,
    seed: int,
) -> tuple[Posterior, Layout]:
    """Posterior of every site of a micrograph."""
    arrays = [n for n, v in known.items() if isinstance(v, np.ndarray)]
    if arrays:
        raise ValueError(
            f"one value for the micrograph was expected for {arrays[0]}, got an array; call infer for each image"
        )
    lattice = fit_lattice(image)
    sampling = _sampling(known, lattice.lattice_constant)
    target, num_pixels = model.prior.sampling, model.prior.num_pixels
    positions, sublattice = find_sites(lattice, image.shape, margin=0)
    margin = math.ceil(patch_margin(sampling, target, num_pixels))
    if min(image.shape) <= 2 * margin:
        raise ValueError(
            f"an image wider than two patches of {num_pixels * target:g} Å was expected, "
            f"got {image.shape} pixels of {sampling:.3g} Å; record a larger field of view"
        )
    extended = torch.from_numpy(extend_image(image, lattice, margin))
    resample = {"sampling": sampling, "target_sampling": target, "num_pixels": num_pixels}
    chunks = torch.from_numpy(positions + margin).split(ENCODED_AT_ONCE)
    features, surprise = _observe(
        (extract_patches(extended, chunk, **resample) for chunk in chunks), model
    )
    kinds = list(SITES)
    strength = torch.tensor(
        [[model.prior.concentration[d] * (d in SITES[k]) for d in DEFECTS] for k in kinds]
    )
    readings = torch.tensor([[kinds.index(site) for site in reading] for reading in READINGS])
    sites = Sites(torch.from_numpy(sublattice).long(), readings, strength)
    (question,) = questions(model.prior, known, 1, num_draws, seed)
    outcomes = tabulate(model, question)
    found = one_image(
        outcomes,
        features,
        question.materials.row(0),
        question.possible[0],
        sites,
        float(model.correlation),
    )
    result = Posterior.empty(1, len(positions), num_draws, known)
    result.surprise = None if surprise is None else surprise[None]
    store_image(result, question, found, sites, num_draws, seed)
    _check(result, 0, known, features, sites, model, seed)
    return result, layout.with_sites(positions, sublattice, sampling, READINGS)


def _sampling(known: Mapping[str, object], lattice_constant: float) -> float:
    """Pixel size in Å: by the lattice of a known host, or as given."""
    host, given = known.get("host"), known.get("sampling")
    if isinstance(host, str):
        sampling = HOSTS[host].lattice_constant / lattice_constant
        if isinstance(given, float) and abs(given / sampling - 1) > 0.1:
            raise ValueError(
                f"sampling near {sampling:.3f} Å/px was expected by the lattice of {host}, got {given:g}; check both"
            )
        return sampling
    if isinstance(given, float):
        return given
    raise ValueError(
        "host or sampling [Å/px] was expected for a micrograph, got neither; the lattice gives one by the other"
    )
