"""infer(): from an image and what is known of it to the posterior of its defects and context."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checks import check_seed, check_whole_number, shorten
from ..files.recorded import join_context
from ..model import DefectModel, PatchModel, SitePrior, load_model
from ..prior import CONTINUOUS
from ..storage import warn
from .arrays import (
    Alternative,
    Posterior,
    describe_image,
    describe_patches,
    join_images,
    latent_names,
    with_conflict,
)
from .cases import Case, check_images, encode, group_images, rows_of, tabulate
from .choice import Way, check_likelihood, check_patches
from .conflict import conflict_with, warn_of_conflict, warn_of_outliers
from .detectors import Rings, check_rings, detector_names
from .image import one_image
from .inputs import Inputs, patch_sampling, read_inputs, resample_patches
from .patches import plan_draws, solve_patches
from .tree import build_tree
from .whole_image import solve_micrograph

__all__ = ["infer"]

MOST_DRAWS = 1_000_000
LOW_ESS = 20.0
UNNORMALISED = 1e-3  # departure of a sum of probabilities from one that rounding does not explain


@functools.cache
def _reference() -> DefectModel:
    """The model that is shipped."""
    return load_model()


@torch.no_grad()
def infer(
    image: xr.DataArray | np.ndarray,
    context: Mapping[str, object] | None = None,
    model: PatchModel | None = None,
    *,
    num_draws: int = 1000,
    seed: int = 0,
    valid: np.ndarray | None = None,
    likelihood: str = "auto",
    progress: bool | None = None,
) -> xr.DataTree:
    """Infer the defects of an image and what is not known of its context.

    Parameters
    ----------
    image : DataArray or ndarray
        A micrograph (y, x), or one scan on several detectors (detector, y, x); patches of one image
        (patch, y, x); or independent images (image, y, x) or (image, patch, y, x), told apart by
        the names of the dimensions. An array without names is a micrograph or a patch in two
        dimensions, and patches of one image in three. Coordinates y and x with a unit of length
        give the pixel size, a coordinate detector the names of the detectors. An image from
        ``read`` also has the context that its file records. Images of HyperSpy, sidpy and LiberTEM
        are taken as they are.
    context : mapping or Dataset, optional
        What is known: host, dopant, beam_energy [eV], convergence_semiangle,
        inner_collection_angle, outer_collection_angle [mrad], defocus [Å], dose [e/Å²], sampling
        [Å/px]. A number or name is observed, a list gives candidates, a Pyro distribution is soft
        evidence; what is left out is inferred. For independent images a value may be an array over
        them. The dopant None is an undoped crystal, Codoped("Ti", "V") one in which each site of
        the class D_M holds either metal. abundance is a mapping of defect class to its share of the
        sites of its own kind, such as {"Y_X": 0.0, "V_X": 0.03, "O_X": (0.0, 0.05)}: 0 excludes a
        class, a number is known, (low, high) or a distribution is soft evidence, and classes that
        are not named keep their prior. Of patches only shares of 0 are known. Of several detectors
        the collection angles are given by their names, detector={"ADF1": {"inner_collection_angle":
        60.0}, ...}; detector_order=("ADF2", "ADF1") states that neither angle of a detector is
        smaller than that of the one before.
    model : DefectModel or ExactModel, optional
        Default: the reference model shipped with the package.
    num_draws : int
        Draws that are returned, and draws of the latent context. By the simulator a fifth of this
        number is returned, in four chains of equal length, a tenth of images of more than 400
        sites and by the exact model, and a tenth over the number of sites in ten thousands of
        larger images. A patch that is an image of its own has
        128 draws of the latent context, or an eighth of the number if that is more, and up to 8192
        until the standard error of its class probabilities is below 0.007.
    seed : int
        Of the quasi-random draws.
    valid : ndarray of bool, shape (y, x), optional
        Pixels of a micrograph that are part of the image. Pixels that are masked or not finite
        never are; sites on such pixels are left out, and patches beside them, or beside vacuum, are
        completed by the crystal.
    likelihood : {"auto", "network", "simulator", "exact"}
        How a micrograph is read. ``"network"``: site by site, by the neural likelihood of the patch
        around it, in seconds. ``"simulator"``: by all of its pixels at once, with the simulator as
        the likelihood, in minutes; context, probe, scan, abundances and sites are drawn together.
        ``"auto"``: the simulator; the network below 3000 e/Å² (a dose that is not given: its median
        by the network), for more than 100 000 sites, and, with a warning, for images that were
        changed or that the simulator turns out not to make. ``"exact"``: as the simulator, by long
        chains without its approximations, in hours, up to 1000 sites. Patches are always read by
        the network, several detectors always by all pixels.
    progress : bool, optional
        Show progress bars: of the network, and of the simulator's draws; default: in a terminal,
        that of the network after a second.

    Returns
    -------
    DataTree
        Groups ``posterior`` (chain, draw, ...), ``class_posterior``, ``log_likelihood``, ``prior``,
        ``sample_stats``, ``observed_data`` and ``constant_data``. ``class_posterior.defect`` (...,
        patch, defect_class) holds the probability of every class of every site. For an image of
        several patches each draw is one world: context, assignment, abundances, and the class of
        every site given these. ``posterior.concentration`` (chain, draw, ..., defect_class) is the
        share of a class on its kind of site: the classes of metal sites sum to one, those of
        chalcogen sites too; ``adatom_M`` is the share on metal sites, one minus ``hollow`` that on
        hollow sites. With unknown host ``class_posterior.defect_host`` (..., patch, defect_class,
        host_class) is the joint probability of class and host, with unknown dopant
        ``class_posterior.dopant_at_site`` (..., patch, dopant_class) the probability that the site
        holds the dopant and the dopant is a certain metal. A co-doped crystal has the latter as
        well, its draws in ``posterior.dopant_at_site`` (chain, draw, ..., patch; index of the
        metal, -1 where the site holds none), the shares of both metals among the sites that hold
        one in ``posterior.dopant_share`` (chain, draw, ..., codopant; not of patches that are
        images of their own), and their means in ``class_posterior.dopant``. By the simulator
        ``posterior`` also holds what the sites share, with units (collection angles, ``gain`` and
        ``amplitude_scatter`` of several detectors over the dimension detector, as ``surprise`` and
        ``conflict``), ``log_likelihood.image`` (chain, draw) is the log density of the pixels, and
        ``sample_stats`` has ``ess_bulk`` and ``r_hat`` of every continuous variable and, of every
        draw, ``residual_correlation`` (chain, draw, axis, lag) of neighbouring pixels; by the exact
        model ``class_posterior.defect_error`` has the Monte Carlo standard errors of ``defect``.
        Where there is no crystal, ``constant_data.crystal`` is 0: vacuum, holes, amorphous
        material. These sites have the abundances of the prior, averaged over the kinds of site, and
        a log likelihood and a surprise of 0; they are left out of the evidence for the context and
        of ``posterior.concentration``. ``class_posterior.dopant`` is 0 for every metal where the
        crystal is undoped, and ``constant_data.dopant`` is "none".

    Raises
    ------
    TypeError, ValueError
        For an image or a context that cannot be, see ``check_context``; if the columns of a
        micrograph are dark.

    Warns
    -----
    UserWarning
        If pixels of a micrograph are no measurement (hot, padding, a scale bar) and are left out,
        its grey scale was clipped or compressed, or parts of it are without crystal. If few draws
        of the context carry the posterior (``sample_stats.ess``) or chains have not mixed
        (``sample_stats.r_hat``), the evidence is against a claim about an image of several patches
        (``sample_stats.conflict``), or most patches look like nothing that the prior of the model
        can make (``sample_stats.surprise``).

    Notes
    -----
    Class, host and dopant are enumerated; the continuous context is summed over quasi-random draws
    from its prior, weighted by the likelihood. Where a variable is known of every independent image
    by more than 64 values and others are latent, images of neighbouring values share their draws,
    at the median of 1/64 of the images.

    The patches of one image share its context. In a micrograph the lattice is fitted, every site is
    classified, and which of its three sublattices is the metal is inferred with the rest; a site at
    the border is completed by the crystal one translation further in. The lattice constant of a
    host gives the pixel size; a stated one is evidence with the error of a microscope's calibration
    (2 %), so that it speaks for hosts.
    """
    num_draws = check_whole_number("num_draws", num_draws, 1, MOST_DRAWS)
    seed = check_seed(seed)
    check_likelihood(likelihood)
    model = _as_model(model).frozen()
    given = join_context(image, context, model.domains)
    extent = model.prior.num_pixels * model.prior.sampling
    names = detector_names(given.image)
    rings = check_rings(given.context, names, model.domains, given.electrons)
    size = rings.shared.get("sampling")
    inputs = read_inputs(given.image, valid, extent, model.prior.num_pixels, size)
    _check_shared_context(inputs, model)
    way = Way(likelihood, progress)
    if inputs.is_micrograph:
        found = solve_micrograph(inputs, rings, model, num_draws, seed, way)
    else:
        rings = _with_size(rings, inputs, model)
        known = check_images(rings.shared, inputs.values.shape[0], inputs.dims)
        _check_abundance(known)
        check_patches(likelihood)
        found = *_solve_patches(inputs, known, model, num_draws, seed, way), rings
    posterior, surprise, sites, rings = found
    _check_probabilities(posterior)
    if posterior.num_chains == 1:
        _warn_of_few_draws(posterior, num_draws)
    # strange patches are told of where there is crystal
    crystal = slice(None) if sites is None else sites.crystal
    on_crystal = None if surprise is None else surprise[..., crystal]
    warn_of_outliers(on_crystal, float(model.card.get("surprise_limit", math.inf)))
    tree = build_tree(posterior, surprise, inputs, sites, rings, model, seed)
    tree.attrs |= given.provenance
    return tree


def _as_model(model: object) -> PatchModel:
    """The model to use; the shipped one by default."""
    if model is None:
        return _reference()
    # not isinstance of the Protocol: since Python 3.12 that misses the buffers of a Module
    methods = (getattr(model, name, None) for name in ("encode", "tabulate", "frozen", "hash"))
    if isinstance(model, type) or not all(map(callable, methods)):
        raise TypeError(
            "a DefectModel or an ExactModel was expected as the model, got "
            f"{' '.join(repr(model).split())[:80]}; read a file by load_model"
        )
    if isinstance(model, torch.nn.Module):
        found = {(p.dtype, p.device.type) for p in model.parameters()}
        if found != {(torch.float32, "cpu")}:
            listed = " and ".join(
                f"{dtype} on {device}" for dtype, device in sorted(found, key=str)
            )
            raise TypeError(
                f"a model in single precision on the CPU was expected, got {listed}; "
                "convert it by model.float().cpu()"
            )
    return model


def _check_shared_context(inputs: Inputs, model: PatchModel) -> None:
    """Raise for several patches of an image where the model takes images of one patch."""
    if not model.shares_context and (inputs.is_micrograph or inputs.values.shape[1] > 1):
        raise ValueError(
            "patches that are images of their own, (image, y, x), were expected by "
            f"{type(model).__name__}, got {inputs.dims}; cut patches, or leave the model out, "
            "of a micrograph with likelihood='exact'"
        )


def _check_abundance(known: Mapping[str, object]) -> None:
    """Raise for shares above 0 of patches, which are no random sample of the sites of a lattice."""
    positive = {n: v for n, v in known.get("abundance", {}).items() if v != 0}
    if positive:
        name, share = next(iter(positive.items()))
        raise ValueError(
            f"shares of 0 were expected in the abundance of patches, got {name} {shorten(share)}; "
            "only the sites of a micrograph are a fair sample of the crystal: name classes that "
            "cannot be, or pass the micrograph"
        )


def _check_probabilities(posterior: Posterior) -> None:
    """Raise where a probability is not finite or not normalised."""
    for name in ("defect", "host", "dopant"):
        total = getattr(posterior, name).sum(-1).ravel()
        wrong = ~(np.abs(total - 1) < UNNORMALISED)
        if wrong.any():
            raise ValueError(
                f"probabilities of {name} that sum to one were expected, the model gives "
                f"{total[wrong][0]:g} for {wrong.sum()} of {wrong.size}; check the weights "
                "of the model"
            )


def _warn_of_few_draws(posterior: Posterior, num_draws: int) -> None:
    """Warn where few draws of the continuous context carry the posterior."""
    drawn = set(posterior.draws) & set(CONTINUOUS)
    if drawn and float(np.median(posterior.ess)) < min(LOW_ESS, num_draws / 2):
        warn(
            f"the posterior rests on {np.median(posterior.ess):.0f} effective draws of the "
            "context; give more of it or raise num_draws"
        )


def _with_size(rings: Rings, inputs: Inputs, model: PatchModel) -> Rings:
    """What is known of patches, whose dose may follow from the size of their pixels."""
    if rings.electrons is None:
        return rings
    return rings.settle(patch_sampling(inputs, rings.shared, model.prior))


def _solve_patches(
    inputs: Inputs,
    known: Mapping[str, object],
    model: PatchModel,
    num_draws: int,
    seed: int,
    way: Way,
) -> tuple[Posterior, np.ndarray | None, None]:
    """Posterior of independent images of one patch each, or of images with several patches."""
    shape = inputs.values.shape[:2]
    features, surprise = encode(resample_patches(inputs, known, model.prior), model)
    features = features.unflatten(0, shape)
    if shape[1] == 1:
        plan = plan_draws(model, num_draws)
        cases = group_images(model.prior, known, shape[0], plan[-1], seed)
        given = cases, features[:, 0], model, plan
        solved = solve_patches(*given, num_draws=num_draws, seed=seed)
        found = (
            describe_patches(*case_and_found, latent_names(known)) for case_and_found in solved
        )
    else:
        cases = group_images(model.prior, known, shape[0], num_draws, seed)
        rest = features, known, model, num_draws, seed
        found = (p for case in cases for p in _images_of_case(case, *rest))
    parts = []
    with way.bar(shape[0], "patches", " images") as bar:
        for part in found:
            parts.append(part)
            bar.update(len(part.images))
    surprise = None if surprise is None else surprise.reshape(shape)
    return join_images(parts), surprise, None


def _images_of_case(
    case: Case,
    features: Tensor,
    known: Mapping[str, object],
    model: PatchModel,
    num_draws: int,
    seed: int,
) -> Iterator[Posterior]:
    """Posterior of images of several patches, one after the other."""
    for i, at in enumerate(case.images):
        own = rows_of(case, torch.tensor([i]))
        claims = {n: v.tolist()[at] if isinstance(v, np.ndarray) else v for n, v in known.items()}
        sites = SitePrior.of_patches(model.prior, features.shape[1]).given(model.prior, claims)
        yield _solve_image(own, features[at], sites, claims, model, num_draws, seed)


def _solve_image(
    case: Case,
    features: Tensor,
    sites: SitePrior,
    claims: Mapping[str, object],
    model: PatchModel,
    num_draws: int,
    seed: int,
) -> Posterior:
    """Posterior of one image of several patches, its claims weighed."""
    enumerated = case.materials.row(0), case.possible[0]
    table = tabulate(model, case)
    found = one_image(table, features, *enumerated, sites, float(model.correlation))
    alternatives = [Alternative(case, found)]
    posterior = describe_image(alternatives, sites, latent_names(claims), num_draws, seed)
    conflict = conflict_with(claims, features, sites, model, seed)
    warn_of_conflict(conflict, claims, float(model.card.get("conflict_limit", math.inf)))
    return with_conflict(posterior, conflict)
