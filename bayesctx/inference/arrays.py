"""The arrays of a posterior, and how the sums over each image fill them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..crystal import HOSTS
from ..defects import DEFECTS
from ..elements import METALS
from ..model import outcome_classes
from ..prior import CONTINUOUS
from .cases import Question
from .image import ImagePosterior, Sites
from .patches import PatchPosterior

__all__ = ["Posterior", "store_conflict", "store_image", "store_patches"]


@dataclass
class Posterior:
    """Arrays of a posterior with a leading dimension over images, filled in by the inference.

    Attributes
    ----------
    defect : ndarray, shape (image, patch, defect_class)
        Class probabilities.
    host, dopant : ndarray, shapes (image, host_class) and (image, dopant_class)
        Probabilities of hosts and dopants.
    ess : ndarray, shape (image,)
        Effective number of draws.
    draws, prior_draws : dict of str to ndarray, shape (image, draw)
        Draws of what is latent in the context.
    defect_draws : ndarray of int8, shape (image, draw, patch)
        Draws of the classes.
    log_likelihood : ndarray, shape (image, draw, patch)
        Log density of the contrast under the drawn context.
    concentration : ndarray, shape (image, draw, defect_class)
        Draws of the composition where patches share one.
    latent : tuple of str
        Variables that were inferred.
    reading : ndarray, shape (reading,), optional
        Probabilities of the readings of a lattice.
    surprise : ndarray, shape (image, patch), optional
        Log density of strangers over that of patches of the prior, in nats.
    conflict : dict of str to ndarray, shape (image,)
        Evidence against each claim about images of several patches, in nats.
    """

    defect: np.ndarray
    host: np.ndarray
    dopant: np.ndarray
    ess: np.ndarray
    draws: dict[str, np.ndarray]
    prior_draws: dict[str, np.ndarray]
    defect_draws: np.ndarray
    log_likelihood: np.ndarray
    concentration: np.ndarray
    latent: tuple[str, ...]
    reading: np.ndarray | None = None
    surprise: np.ndarray | None = None
    conflict: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_draws(self) -> int:
        """Number of draws."""
        return self.defect_draws.shape[1]

    @classmethod
    def empty(
        cls, num_images: int, num_patches: int, num_draws: int, known: Mapping[str, object]
    ) -> Posterior:
        """Make room for a posterior.

        Parameters
        ----------
        num_images, num_patches, num_draws : int
            Sizes.
        known : mapping
            The checked context; what is not observed in it is latent.

        Returns
        -------
        Posterior
            Of zeros.
        """
        latent = tuple(
            n
            for n in ("host", "dopant", *CONTINUOUS)
            if not isinstance(known.get(n), float | str | np.ndarray)
        )
        kinds = {n: np.float32 if n in CONTINUOUS else np.int8 for n in (*latent, "reading")}
        draws = {n: np.zeros((num_images, num_draws), kind) for n, kind in kinds.items()}
        return cls(
            defect=np.zeros((num_images, num_patches, len(DEFECTS)), np.float32),
            host=np.zeros((num_images, len(HOSTS)), np.float32),
            dopant=np.zeros((num_images, len(METALS)), np.float32),
            ess=np.zeros(num_images, np.float32),
            draws=draws,
            prior_draws={n: np.zeros_like(v) for n, v in draws.items() if n != "reading"},
            defect_draws=np.zeros((num_images, num_draws, num_patches), np.int8),
            log_likelihood=np.zeros((num_images, num_draws, num_patches), np.float32),
            concentration=np.zeros((num_images, num_draws, len(DEFECTS)), np.float32),
            latent=latent,
        )


def store_patches(result: Posterior, question: Question, found: PatchPosterior) -> None:
    """Put the posterior of some images in its place.

    Parameters
    ----------
    result : Posterior
        Is filled in.
    question : Question
        The images, and what was enumerated or drawn for them.
    found : PatchPosterior
        Of these images.
    """
    at = question.images
    result.defect[at, 0] = found.defect.numpy()
    result.ess[at] = found.ess.numpy()
    result.log_likelihood[at, :, 0] = found.log_likelihood.numpy()
    classes = outcome_classes(question.materials.dopant.shape[-1])
    result.defect_draws[at, :, 0] = classes[found.outcome].numpy()
    rows = (
        torch.arange(len(at))[:, None]
        if len(question.materials.host) > 1
        else torch.zeros(1, 1, dtype=torch.long)
    )
    _store_material(result, question, found.material)
    _store_prior(result, question)
    drawn = {
        "host": lambda: question.materials.host[rows, found.host],
        "dopant": lambda: question.materials.dopant[rows, found.host, found.dopant],
    } | {
        n: lambda v=v: v.expand(len(at), -1).gather(1, found.draw)
        for n, v in question.context.items()
    }
    for name in result.latent:
        result.draws[name][at] = drawn[name]().numpy()


def _store_material(result: Posterior, question: Question, material: Tensor) -> None:
    """Probabilities of hosts and dopants by their index in the package."""
    for row, at in enumerate(question.images):
        m = question.materials.row(row if len(question.materials.host) > 1 else 0)
        np.add.at(result.host[at], m.host.numpy(), material[row].sum(-1).numpy())
        np.add.at(result.dopant[at], m.dopant.numpy(), material[row].numpy())


def _store_prior(result: Posterior, question: Question) -> None:
    """Draws from the prior under what is known: the context draws themselves, and materials by their weights."""
    at, num_draws = question.images, result.num_draws
    for name in set(question.context) & set(result.latent):
        values = question.context[name]
        result.prior_draws[name][at] = values[:, torch.arange(num_draws) % values.shape[1]].numpy()
    names = [n for n in ("host", "dopant") if n in result.latent]
    if not names:
        return
    m, generator = question.materials, torch.Generator().manual_seed(0)
    host = torch.multinomial(m.host_weight, num_draws, replacement=True, generator=generator)
    rows = torch.arange(len(host))[:, None]
    dopant = torch.multinomial(
        m.dopant_weight[rows, host].flatten(0, 1), 1, generator=generator
    ).view(host.shape)
    drawn = {"host": m.host[rows, host], "dopant": m.dopant[rows, host, dopant]}
    for name in names:
        result.prior_draws[name][at] = drawn[name].numpy()


def store_conflict(result: Posterior, at: int, conflict: Mapping[str, float]) -> None:
    """Put the evidence against the claims about one image in its place.

    Parameters
    ----------
    result : Posterior
        Is filled in.
    at : int
        Position of the image.
    conflict : mapping of str to float
        By claim, in nats.
    """
    for claim, value in conflict.items():
        result.conflict.setdefault(claim, np.full(len(result.defect), np.nan, np.float32))[at] = (
            value
        )


def store_image(
    result: Posterior,
    question: Question,
    found: ImagePosterior,
    sites: Sites,
    num_draws: int,
    seed: int,
) -> None:
    """Put the posterior of one image in its place, and draw from it.

    Parameters
    ----------
    result : Posterior
        Is filled in.
    question : Question
        The image, and what was enumerated or drawn for it.
    found : ImagePosterior
        Of this image.
    sites : Sites
        Its sublattices and the composition expected of each.
    num_draws : int
        Draws to store.
    seed : int
        Of the draws.
    """
    (at,) = question.images
    rng = np.random.default_rng([seed, int(at)])
    m = question.materials.row(0)
    result.reading = found.reading.numpy()
    result.defect[at] = torch.einsum("r,rpk->pk", found.reading, found.defect).numpy()
    result.ess[at] = found.ess
    _store_material(result, question, found.material[None])
    _store_prior(result, question)
    cell = rng.choice(
        len(found.weight), num_draws, p=(w := found.weight.double().numpy()) / w.sum()
    )
    reading, draw, host, dopant = found.cells[cell].T
    drawn = {"host": m.host[host], "dopant": m.dopant[host, dopant]} | {
        n: v[0, draw] for n, v in question.context.items()
    }
    for name in result.latent:
        result.draws[name][at] = drawn[name].numpy()
    result.log_likelihood[at] = found.log_likelihood[cell].numpy()
    for r in reading.unique():
        mine = (reading == r).numpy()
        edges = found.defect[r].double().cumsum(-1)
        u = torch.from_numpy(rng.random((edges.shape[0], int(mine.sum())))) * edges[:, -1:]
        result.defect_draws[at, mine] = (
            torch.searchsorted(edges, u).clamp(max=len(DEFECTS) - 1).T.numpy()
        )
    result.draws["reading"][at] = reading.numpy()
    strength = sites.strength.amax(0).double().numpy()
    counts = np.stack([np.bincount(d, minlength=len(DEFECTS)) for d in result.defect_draws[at]])
    gamma = rng.standard_gamma(strength + counts)
    result.concentration[at] = gamma / gamma.sum(-1, keepdims=True)
