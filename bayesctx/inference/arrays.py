"""A posterior as arrays with a leading dimension over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ..crystal import HOSTS, METALS
from ..evidence import Codoped
from ..model import Materials, SitePrior, outcome_classes
from ..prior import CONTINUOUS
from .cases import Case
from .image import ImagePosterior
from .joint import draw_dopants, draw_worlds
from .outcomes import by_outcome, dopant_given_host, dopants_of_patches
from .patches import PatchPosterior

__all__ = [
    "Alternative",
    "Posterior",
    "describe_image",
    "describe_patches",
    "join_images",
    "latent_names",
    "with_conflict",
]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Arrays of a posterior.

    Attributes
    ----------
    images : ndarray of int, shape (image,)
        Positions of the images in the input.
    defect : ndarray, shape (image, patch, defect_class)
        Class probabilities.
    host, dopant : ndarray, shapes (image, host_class) and (image, dopant_class)
        Probabilities of hosts and dopants; expected shares of the dopants of a co-doped crystal.
    ess : ndarray, shape (image,)
        Effective number of draws of the context.
    draws, prior_draws : dict of str to ndarray, shape (image, draw) or (image, draw, detector)
        Draws of the latent context from posterior and prior; host and dopant by index.
    defect_draws : ndarray of int8, shape (image, draw, patch)
        Draws of the classes.
    log_likelihood : ndarray, shape (image, draw, patch) or (image, draw)
        Log density of the contrast under the drawn context, or of all pixels under the drawn world.
    concentration : ndarray, shape (image, draw, defect_class), optional
        Draws of the abundances where patches share them: the share of each class on the first kind
        of site that can hold it.
    assignment : ndarray, shape (image, assignment), optional
        Probabilities of the assignments of a lattice.
    defect_host : ndarray, shape (image, patch, defect_class, host_class), optional
        Joint probabilities of class and host, where patches share an unknown host.
    dopant_at_site : ndarray, shape (image, patch, dopant_class), optional
        Probabilities that the site holds a dopant and that it is a certain metal, where patches
        share an unknown dopant or the crystal is co-doped.
    dopant_draws : ndarray of int8, shape (image, draw, patch), optional
        Which dopant of a co-doped crystal every site holds, -1 for none.
    dopant_share : ndarray, shape (image, draw, 2), optional
        Shares of both dopants of a co-doped crystal among the sites that hold one, where patches
        share them.
    outcome : ndarray, shape (image, patch, outcome), optional
        Joint probabilities of host and hypothesis of patches that are images of their own, see
        ``outcome_labels``.
    dopant_given_host : ndarray, shape (image, host_class, dopant_class), optional
        Probabilities of the dopants of every host before such patches were seen.
    conflict : dict of str to ndarray, shape (image,) or (image, detector)
        Evidence against each claim about images of several patches, in nats.
    defect_error : ndarray, shape (image, patch, defect_class), optional
        Monte Carlo standard errors of the class probabilities, of the exact model.
    num_chains : int
        Chains that the draws come from, one after the other.
    diagnosis : dict of str to tuple of float
        Effective number of draws and r-hat of the variables of chains.
    residual_correlation : ndarray, shape (image, draw, *detector, axis, lag), optional
        Of the residuals of neighbouring pixels, see ``scan.noise.correlation_of_residuals``.
    """

    images: np.ndarray
    defect: np.ndarray
    host: np.ndarray
    dopant: np.ndarray
    ess: np.ndarray
    draws: dict[str, np.ndarray]
    prior_draws: dict[str, np.ndarray]
    defect_draws: np.ndarray
    log_likelihood: np.ndarray
    concentration: np.ndarray | None = None
    assignment: np.ndarray | None = None
    defect_host: np.ndarray | None = None
    dopant_at_site: np.ndarray | None = None
    dopant_draws: np.ndarray | None = None
    dopant_share: np.ndarray | None = None
    outcome: np.ndarray | None = None
    dopant_given_host: np.ndarray | None = None
    defect_error: np.ndarray | None = None
    conflict: dict[str, np.ndarray] = field(default_factory=dict)
    num_chains: int = 1
    diagnosis: dict[str, tuple[float, float]] = field(default_factory=dict)
    residual_correlation: np.ndarray | None = None

    @property
    def num_draws(self) -> int:
        """Number of draws."""
        return self.defect_draws.shape[1]


def latent_names(known: Mapping[str, object]) -> tuple[str, ...]:
    """Name the variables of the context that are inferred.

    Parameters
    ----------
    known : mapping
        The checked context; what is not observed in it is latent.

    Returns
    -------
    tuple of str
        In the order of the context.
    """
    return tuple(
        n
        for n in ("host", "dopant", *CONTINUOUS)
        if n not in known or not isinstance(known[n], float | str | np.ndarray | Codoped | None)
    )


def join_images(parts: Sequence[Posterior]) -> Posterior:
    """Put the posteriors of different images together, in the order of the input.

    Parameters
    ----------
    parts : sequence of Posterior
        Of all images.

    Returns
    -------
    Posterior
        With every image at its position.
    """
    order = np.argsort(np.concatenate([p.images for p in parts]))

    def together(values: Sequence[object]) -> object:
        if values[0] is None:
            return None
        if isinstance(values[0], int):
            return values[0]
        if isinstance(values[0], dict):
            names = dict.fromkeys(n for v in values for n in v)
            return {n: together([v[n] for v in values]) for n in names}
        return np.concatenate(values)[order]

    return Posterior(**{
        f.name: together([getattr(p, f.name) for p in parts]) for f in fields(Posterior)
    })  # fmt: skip


def describe_patches(case: Case, found: PatchPosterior, latent: Sequence[str]) -> Posterior:
    """Posterior of patches that are images of their own.

    Parameters
    ----------
    case : Case
        The images, and what was enumerated or drawn for them.
    found : PatchPosterior
        Of these images.
    latent : sequence of str
        Variables that were inferred.

    Returns
    -------
    Posterior
        Of these images.
    """
    num_images, num_draws = found.draw.shape
    materials = case.materials
    rows = (
        torch.arange(num_images)[:, None] if len(materials.host) > 1 else torch.zeros(1, 1).long()
    )
    index = {
        "host": materials.host[rows, found.host],
        "dopant": materials.dopant[rows, found.host, found.dopant],
    }
    values = {n: v.expand(num_images, -1).gather(1, found.draw) for n, v in case.context.items()}
    classes = outcome_classes(materials.dopant.shape[-1])
    host, dopant = _by_name(case, found.material)
    before = dopant_given_host(materials)
    return Posterior(
        images=case.images,
        defect=found.defect.numpy()[:, None],
        host=host,
        dopant=dopant,
        ess=found.ess.numpy(),
        draws=_stored(index | values, latent),
        prior_draws=_stored(_draw_prior(case, num_images, num_draws, latent), latent),
        defect_draws=classes[found.outcome].numpy().astype(np.int8)[..., None],
        log_likelihood=found.log_likelihood.numpy()[..., None],
        outcome=by_outcome(materials, found.share)[:, None],
        dopant_given_host=np.broadcast_to(before, (num_images, *before.shape[1:])),
        **dopants_of_patches(materials, found.share, found.outcome, index["dopant"]),
    )


@dataclass(frozen=True, eq=False)
class Alternative:
    """Posterior of one image given that its host is one of some, which share a pixel size.

    Attributes
    ----------
    case : Case
        What was enumerated or drawn.
    found : ImagePosterior
        Given these hosts.
    log_weight : float
        Log of the prior probability of these hosts.
    sampling : float, optional
        Size of a pixel in Å that these hosts imply.
    """

    case: Case
    found: ImagePosterior
    log_weight: float = 0.0
    sampling: float | None = None

    @property
    def log_posterior(self) -> float:
        """Log of the posterior probability of these hosts, up to a constant."""
        return self.log_weight + self.found.log_evidence


def describe_image(
    alternatives: Sequence[Alternative],
    sites: SitePrior,
    latent: Sequence[str],
    num_draws: int,
    seed: int,
) -> Posterior:
    """Posterior of one image of several patches, with draws from it.

    Parameters
    ----------
    alternatives : sequence of Alternative
        For different hosts, together all that may be.
    sites : SitePrior
        Sublattices and the abundances expected on each kind of site.
    latent : sequence of str
        Variables that were inferred.
    num_draws : int
        Draws to make.
    seed : int
        Of the draws.

    Returns
    -------
    Posterior
        Of this image.
    """
    images = alternatives[0].case.images
    rng = np.random.default_rng([seed, int(images[0])])
    log_prior = np.array([a.log_weight for a in alternatives])
    weight = softmax(np.array([a.log_posterior for a in alternatives]))
    weighted = list(zip(weight.tolist(), alternatives, strict=True))
    numbers = rng.multinomial(num_draws, weight)
    order = rng.permutation(num_draws)
    drawn = [_draw(a, sites, int(n), rng) for a, n in zip(alternatives, numbers, strict=True) if n]
    draws = {n: np.concatenate([d[n] for d in drawn])[order] for n in drawn[0]}
    prior = [
        _draw_prior(a.case, 1, int(n), latent)
        for a, n in zip(alternatives, rng.multinomial(num_draws, softmax(log_prior)), strict=True)
        if n
    ]
    prior_draws = {n: torch.cat([d[n] for d in prior], 1)[:, order] for n in prior[0]}
    named = [_by_name(a.case, w * a.found.material[None]) for w, a in weighted]
    classes = [(w, a.found.classes) for w, a in weighted]
    with_host = sum(w * c.with_host for w, c in classes)[None].numpy()
    at_site = sum(w * c.dopant_at_site for w, c in classes)[None].numpy()
    is_codoped = alternatives[0].case.materials.is_codoped
    stored = _stored({n: torch.from_numpy(draws[n][None]) for n in latent}, latent)
    stored["assignment"] = draws["assignment"][None].astype(np.int8)
    if "host" in latent and alternatives[0].sampling is not None:
        stored["sampling"] = draws["sampling"][None].astype(np.float32)
    return Posterior(
        images=images,
        defect=sum(w * c.defect for w, c in classes)[None].numpy(),
        host=sum(host for host, _ in named),
        dopant=sum(dopant for _, dopant in named),
        ess=np.array([sum(w * a.found.ess for w, a in weighted)], np.float32),
        draws=stored,
        prior_draws=_stored(prior_draws, latent),
        defect_draws=draws["defect"][None],
        log_likelihood=draws["log_likelihood"][None],
        concentration=draws["concentration"][None],
        assignment=sum(w * a.found.assignment.numpy() for w, a in weighted)[None],
        defect_host=with_host if "host" in latent else None,
        dopant_at_site=at_site if "dopant" in latent or is_codoped else None,
        dopant_draws=draws["dopant_at_site"][None] if is_codoped else None,
        dopant_share=draws["dopant_share"][None] if is_codoped else None,
    )


def _draw(
    alternative: Alternative, sites: SitePrior, num_draws: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Joint draws of context, assignment, abundances and classes, leading dimension over draws."""
    found, case = alternative.found, alternative.case
    materials, weight = case.materials.row(0), found.weight.double().numpy()
    cell = rng.choice(len(weight), num_draws, p=weight / weight.sum())
    assignment, draw, host, dopant = found.cells.index[cell].T
    defect, abundance = draw_worlds(found.cells, cell, sites, rng)
    drawn = {n: v[0, draw].numpy() for n, v in case.context.items()}
    if materials.is_codoped:
        given = found.cells, cell, defect, materials, rng
        drawn["dopant_at_site"], drawn["dopant_share"] = draw_dopants(*given)
    else:
        drawn["dopant"] = materials.dopant[host, dopant].numpy()
    return drawn | {
        "host": materials.host[host].numpy(),
        "assignment": assignment.numpy(),
        "sampling": np.full(num_draws, alternative.sampling or np.nan),
        "defect": defect,
        "concentration": abundance,
        "log_likelihood": found.classes.log_likelihood[cell].numpy(),
    }


def with_conflict(posterior: Posterior, conflict: Mapping[str, object]) -> Posterior:
    """Add the evidence against the claims about one image.

    Parameters
    ----------
    posterior : Posterior
        Of one image.
    conflict : mapping of str to float
        By claim, in nats.

    Returns
    -------
    Posterior
        With it.
    """
    return replace(posterior, conflict={n: np.array([v], np.float32) for n, v in conflict.items()})


def _stored(drawn: Mapping[str, Tensor], latent: Sequence[str]) -> dict[str, np.ndarray]:
    """Draws of what is latent as they are stored: names by index, numbers in single precision."""
    kinds = {n: np.float32 if n in CONTINUOUS else np.int8 for n in latent}
    return {n: drawn[n].numpy().astype(k) for n, k in kinds.items()}


def _by_name(case: Case, material: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of hosts and dopants by their index in the package, from those enumerated."""
    shape = material.shape
    host, dopant = (
        m.expand(shape[0], *m.shape[1:]) for m in (case.materials.host, case.materials.dopant)
    )
    by_host = torch.zeros(shape[0], len(HOSTS), dtype=torch.float32).scatter_add(
        1, host, material.sum(-1)
    )
    by_dopant = torch.zeros(shape[0], len(METALS), dtype=torch.float32).scatter_add(
        1, dopant.flatten(1), material.flatten(1)
    )
    return by_host.numpy(), by_dopant.numpy()


def _draw_prior(
    case: Case, num_images: int, num_draws: int, latent: Sequence[str]
) -> dict[str, Tensor]:
    """Draws of what is latent from the prior under what is known, shape (image, draw)."""
    draw = torch.arange(num_draws)
    drawn = {n: v[:, draw % v.shape[1]] for n, v in case.context.items() if n in latent}
    if not {"host", "dopant"}.isdisjoint(latent):
        drawn |= _draw_materials(case.materials, num_draws)
    return {n: drawn[n].expand(num_images, -1) for n in latent}


def _draw_materials(materials: Materials, num_draws: int) -> dict[str, Tensor]:
    """Hosts and dopants from their prior, shape (image or 1, draw)."""
    generator = torch.Generator().manual_seed(0)
    host = torch.multinomial(
        materials.host_weight, num_draws, replacement=True, generator=generator
    )
    rows = torch.arange(len(host))[:, None]
    weight = materials.dopant_weight[rows, host].flatten(0, 1)
    dopant = torch.multinomial(weight, 1, generator=generator).view(host.shape)
    return {"host": materials.host[rows, host], "dopant": materials.dopant[rows, host, dopant]}
