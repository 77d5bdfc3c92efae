"""Draws of the continuous context under what is known, and images with the same question put together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from ..model import DefectModel, LikelihoodTable, Materials
from ..prior import CONTINUOUS, Prior

__all__ = ["Question", "draw_context", "questions", "tabulate"]

DRAWS_AT_ONCE = (
    128  # of the context in a table of the likelihood: hidden layers are larger than what comes out
)
CONE = (
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
)  # only some of their values go together
FEW = 64  # distinct values of a variable up to which images are grouped by it


@dataclass(frozen=True)
class Question:
    """Images of which the same is known, and what is enumerated or drawn in the place of the rest.

    Attributes
    ----------
    images : ndarray of int
        Positions of the images.
    context : mapping of str to Tensor, shape (image or 1, draw)
        Draws of the continuous context, known values at their place.
    possible : Tensor of bool, shape (image or 1, draw)
        Draws that can be.
    materials : Materials, shapes (image or 1, host, ...)
        Hosts and dopants to enumerate.
    """

    images: np.ndarray
    context: Mapping[str, Tensor]
    possible: Tensor
    materials: Materials


def draw_context(
    prior: Prior, num_draws: int, seed: int, *, replaced: Collection[str] = ()
) -> dict[str, Tensor]:
    """Draw the continuous context from a prior by a scrambled Sobol sequence.

    Parameters
    ----------
    prior : Prior
        Conditioned on what is known.
    num_draws : int
        Number of draws.
    seed : int
        Of the scrambling.
    replaced : collection of str
        Variables that every image has a value of its own for. An angle among them decides for each image which draws can be.

    Returns
    -------
    dict of str to Tensor, shape (num_draws,)
        By the names of ``prior.CONTINUOUS``; every draw has a detector outside of the probe's cone, unless an angle is replaced.

    Raises
    ------
    ValueError
        If the prior allows no such detector.
    """
    u = torch.from_numpy(
        qmc.Sobol(1 + len(CONTINUOUS), rng=seed).random_base2(
            max(num_draws - 1, 1).bit_length() + 3
        )
    ).float()
    context, possible = prior.quantiles(u)
    if not bool(possible.any()):
        raise ValueError(
            "a detector outside of the probe's cone was expected, the given angles allow none; check their ranges"
        )
    # a cone that the drawn detector cuts would be drawn too seldom for the detector of the image
    found = (possible | any(name in replaced for name in CONE)).nonzero()[:, 0]
    found = found.repeat(-(-num_draws // len(found)))[:num_draws]
    return {name: value[found] for name, value in context.items()}


def questions(
    prior: Prior, known: Mapping[str, object], num_images: int, num_draws: int, seed: int
) -> Iterator[Question]:
    """Group images by what is known of them.

    Parameters
    ----------
    prior : Prior
        Of the model.
    known : mapping
        A checked context; arrays hold one value per image.
    num_images, num_draws, seed : int
        Numbers of images and of draws of the latent context, seed of the draws.

    Yields
    ------
    Question
        Every image belongs to one.

    Raises
    ------
    ValueError
        If an array does not fit the images, or the prior contradicts what is known.
    """
    arrays = {n: v for n, v in known.items() if isinstance(v, np.ndarray)}
    for name, values in arrays.items():
        if len(values) != num_images:
            raise ValueError(
                f"{name} was expected for {num_images} images, got {len(values)} values; give one value for all or one each"
            )
    shared = {n: v for n, v in known.items() if n not in arrays and n != "sampling"}
    arrays.pop("sampling", None)
    if all(n in arrays or isinstance(shared.get(n), float) for n in CONTINUOUS):
        yield _all_known(prior, shared, arrays, num_images)
        return
    # a point of the prior's conditions must meet its images before anything is drawn
    points = {n for c in prior.conditions for n in CONTINUOUS if isinstance(c[n], float)}
    keys = [
        n
        for n, v in arrays.items()
        if n not in CONTINUOUS or n in points or len(np.unique(v)) <= FEW
    ]
    free = [n for n in arrays if n not in keys]
    if len(free) == 1:
        keys.append(free[0])
        arrays[free[0]] = _gather(arrays[free[0]])
    rows = (
        np.array(list(zip(*(arrays[k] for k in keys), strict=True)), object)
        if keys
        else np.zeros((num_images, 0), object)
    )
    groups: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple(row), []).append(i)
    for row, members in groups.items():
        given = prior.given(shared | dict(zip(keys, row, strict=True)))
        own = set(arrays) - set(keys)
        context = {
            n: v[None] for n, v in draw_context(given, num_draws, seed, replaced=own).items()
        }
        images = np.array(members)
        for name in own:
            context[name] = (
                torch.from_numpy(arrays[name][images]).float()[:, None].expand(-1, num_draws)
            )
        context = dict(zip(context, torch.broadcast_tensors(*context.values()), strict=True))
        materials = Materials.of(given)
        yield Question(images, context, _possible(context), materials.map(lambda f: f[None]))


def tabulate(model: DefectModel, question: Question) -> LikelihoodTable:
    """Tabulate the likelihood of one image, a part of the draws after the other.

    Parameters
    ----------
    model : DefectModel
        The model.
    question : Question
        Of one image.

    Returns
    -------
    LikelihoodTable, shapes (draw, host, hypothesis, ...)
        The table.
    """
    parts = zip(*(v.split(DRAWS_AT_ONCE, -1) for v in question.context.values()), strict=True)
    tables = [
        model.tabulate(dict(zip(question.context, part, strict=True)), question.materials)[0]
        for part in parts
    ]
    return LikelihoodTable(
        *(torch.cat([getattr(t, name) for t in tables]) for name in ("log_weight", "loc", "scale"))
    )


def _gather(values: np.ndarray) -> np.ndarray:
    """Many different values as the medians of as many groups of neighbours as can share their draws."""
    order = np.argsort(values, kind="stable")
    gathered = np.empty_like(values)
    for members in np.array_split(order, FEW):
        gathered[members] = np.median(values[members])
    return gathered


def _all_known(
    prior: Prior, shared: Mapping[str, object], arrays: Mapping[str, np.ndarray], num_images: int
) -> Question:
    """Images of which the whole continuous context is known: one draw each, hosts and dopants side by side."""
    context = {}
    for name in CONTINUOUS:
        value = arrays.get(name, shared.get(name))
        context[name] = torch.as_tensor(
            np.broadcast_to(np.asarray(value, np.float32), num_images).copy()
        )[:, None]
    names = {n: arrays[n] for n in ("host", "dopant") if n in arrays}
    rows = list(zip(*(names[n] for n in names), strict=True)) if names else [()]
    unique = {
        row: prior.given(
            {n: v for n, v in shared.items() if n in ("host", "dopant")}
            | dict(zip(names, row, strict=True))
        )
        for row in set(rows)
    }
    materials = {row: Materials.of(given) for row, given in unique.items()}
    most_hosts = max(len(m.host) for m in materials.values())
    most_dopants = max(m.dopant.shape[1] for m in materials.values())

    def padded(m: Materials) -> tuple[Tensor, ...]:
        hosts, dopants = most_hosts - len(m.host), most_dopants - m.dopant.shape[1]
        pad = torch.nn.functional.pad
        return (
            pad(m.host, (0, hosts)),
            pad(m.dopant, (0, dopants, 0, hosts)),
            pad(m.host_weight, (0, hosts)),
            pad(m.dopant_weight, (0, dopants, 0, hosts)),
        )

    fields = {row: padded(m) for row, m in materials.items()}
    stacked = Materials(*(torch.stack(f) for f in zip(*(fields[row] for row in rows), strict=True)))
    return Question(np.arange(num_images), context, _possible(context), stacked)


def _possible(context: Mapping[str, Tensor]) -> Tensor:
    """Draws whose detector lies outside of the probe's cone."""
    inner, outer = context["inner_collection_angle"], context["outer_collection_angle"]
    return (context["convergence_semiangle"] <= inner) & (inner < outer)


def rows_of(case: Question, rows: Tensor) -> Question:
    """Select some images of a case.

    Parameters
    ----------
    case : Question
        Of several images.
    rows : Tensor of int, shape (image,)
        Positions among the images of the case.

    Returns
    -------
    Question
        Of these images.
    """

    def pick(value: Tensor) -> Tensor:
        return value[rows] if len(value) > 1 else value

    context = {n: pick(v) for n, v in case.context.items()}
    images, possible = case.images[rows.numpy()], pick(case.possible)
    return Question(images, context, possible, case.materials.map(pick))
