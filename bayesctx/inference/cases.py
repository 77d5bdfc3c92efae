"""Images grouped by what is known of them, with draws of the continuous context for the rest."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from ..context import ADF_RULE, ANGLES, Detector, is_annular_dark_field
from ..model import DefectModel, LikelihoodTable, Materials, PatchModel, SitePrior
from ..prior import CONTINUOUS, Prior

__all__ = ["Case", "check_images", "draw_context", "encode", "group_images", "tabulate"]

DRAWS_AT_ONCE = 128  # of the context in a table: hidden layers are larger than what comes out
FEW = 64  # distinct values of a variable up to which images are grouped by it
MOST_TRIED = 2**19  # points of the Sobol sequence until enough detectors go with their probe
# scipy renamed the argument in 1.15
SEED = "rng" if "rng" in inspect.signature(qmc.Sobol).parameters else "seed"


@dataclass(frozen=True)
class Case:
    """Images of which the same variables are known, and what is summed over for the others.

    Attributes
    ----------
    images : ndarray of int
        Positions of the images.
    context : mapping of str to Tensor, shape (image or 1, draw)
        The continuous context by the names of ``prior.CONTINUOUS``: draws, or the known value in
        every draw.
    possible : Tensor of bool, shape (image or 1, draw)
        Draws whose detector goes with the probe, see ``context.is_annular_dark_field``; at least
        one for every image.
    materials : Materials, shapes (image or 1, host, ...)
        Hosts and dopants to enumerate.
    class_weight : Tensor, shape (image or 1, defect_class)
        Prior probability of the classes of a patch that is an image of its own.
    """

    images: np.ndarray
    context: Mapping[str, Tensor]
    possible: Tensor
    materials: Materials
    class_weight: Tensor


def check_images(
    known: Mapping[str, object], num_images: int, dims: Sequence[str] = ("image",)
) -> dict[str, object]:
    """Check that values per image fit the images.

    Parameters
    ----------
    known : mapping
        A checked context; arrays hold one value per image.
    num_images : int
        Number of images.
    dims : sequence of str
        Dimensions of the input; without ``image`` it is one image.

    Returns
    -------
    dict
        The context; for one image a number or name takes the place of an array of length 1.

    Raises
    ------
    ValueError
        If an array does not have one value per image.
    """
    checked = dict(known)
    for name, values in known.items():
        if not isinstance(values, np.ndarray):
            continue
        if len(values) != num_images and "image" in dims:
            raise ValueError(
                f"{name} was expected for {num_images} images, got {len(values)} values; give one "
                "value for all or one each"
            )
        if len(values) != 1 and "image" not in dims:
            raise ValueError(
                f"one value of {name} was expected for the one image ({', '.join(dims)}), got an "
                f"array of {len(values)}; call infer for each image, or name the first dimension "
                "'image' if its elements are images of their own"
            )
        if "image" not in dims:
            checked[name] = values.tolist()[0]
    return checked


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
        Variables whose draws are replaced by the values of every image. If an angle is among them,
        draws are not selected here: validity is checked per image.

    Returns
    -------
    dict of str to Tensor of float32, shape (num_draws,)
        By the names of ``prior.CONTINUOUS``, inside of the domains of ``CONTEXT``. In every draw
        the detector goes with the probe, see ``context.is_annular_dark_field``, unless an angle is
        replaced.

    Raises
    ------
    ValueError
        If the prior allows no such detector.
    """
    # a generator is used as it is by every version; a number was spawned from before scipy 1.15
    sequence = qmc.Sobol(1 + len(CONTINUOUS), **{SEED: np.random.default_rng(seed)})
    num_tried = 2 ** (max(num_draws - 1, 1).bit_length() + 3)
    points = sequence.random(num_tried)
    while True:
        context, possible = prior.quantiles(torch.from_numpy(points).float())
        # the convergence that goes with a drawn detector need not be that of the image's detector
        possible = possible | any(name in replaced for name in ANGLES)
        if int(possible.sum()) >= num_draws or len(points) >= MOST_TRIED:
            break
        points = np.concatenate([points, sequence.random(len(points))])
    found = possible.nonzero()[:, 0]
    if not len(found):
        raise ValueError(
            f"angles of an annular dark-field detector ({ADF_RULE}) were expected, got none in "
            f"{len(points)} draws of what is known of them; check their ranges"
        )
    found = found.repeat(-(-num_draws // len(found)))[:num_draws]
    return {name: value[found] for name, value in context.items()}


def group_images(
    prior: Prior, known: Mapping[str, object], num_images: int, num_draws: int, seed: int
) -> Iterator[Case]:
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
    Case
        Every image belongs to one.

    Raises
    ------
    ValueError
        If an array does not fit the images, or the prior contradicts what is known.
    """
    known = check_images({n: v for n, v in known.items() if n != "sampling"}, num_images)
    arrays = {n: v for n, v in known.items() if isinstance(v, np.ndarray)}
    shared = {n: v for n, v in known.items() if n not in arrays}
    if all(n in arrays or isinstance(shared.get(n), float) for n in CONTINUOUS):
        yield _all_known(prior, shared, arrays, num_images)
        return
    keys = _keys(prior, arrays)
    rows = zip(*(keys[n].tolist() for n in keys), strict=True) if keys else [()] * num_images
    groups: dict[tuple, list[int]] = {}
    for image, row in enumerate(rows):
        groups.setdefault(row, []).append(image)
    for row, members in groups.items():
        given = prior.given(shared | dict(zip(keys, row, strict=True)))
        images = np.array(members)
        own = {n: v[images] for n, v in arrays.items() if n not in keys}
        yield from _drawn(given, images, own, num_draws, seed)


def encode(patches: Iterable[Tensor], model: PatchModel) -> tuple[Tensor, np.ndarray | None]:
    """Features and surprise of patches that come some at a time.

    Parameters
    ----------
    patches : iterable of Tensor, shape (patch, y, x)
        On the pixels of the model.
    model : PatchModel
        The model.

    Returns
    -------
    features : Tensor, shape (patch, feature)
        Contrast features.
    surprise : ndarray, shape (patch,), or None
        In nats, if the model has an outlier head.
    """
    features, surprise = zip(*map(model.encode, patches), strict=True)
    return torch.cat(features), None if surprise[0] is None else torch.cat(surprise).numpy()


def tabulate(model: DefectModel, case: Case) -> LikelihoodTable:
    """Tabulate the likelihood of one image, 128 draws at a time.

    Parameters
    ----------
    model : DefectModel
        The model.
    case : Case
        Of one image.

    Returns
    -------
    LikelihoodTable, shapes (draw, host, hypothesis, ...)
        The table.
    """
    parts = zip(*(v.split(DRAWS_AT_ONCE, -1) for v in case.context.values()), strict=True)
    tables = [
        model.tabulate(dict(zip(case.context, part, strict=True)), case.materials)[0]
        for part in parts
    ]
    return LikelihoodTable(
        *(torch.cat([getattr(t, name) for t in tables]) for name in ("log_weight", "loc", "scale"))
    )


def _keys(prior: Prior, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values that images of a case share: names, and numbers of few values or fixed by a prior."""
    # what a condition of the prior fixes to a number decides whether the condition applies
    fixed = {n for c in prior.conditions for n in CONTINUOUS if isinstance(c[n], float)}
    keys = {
        n: v
        for n, v in arrays.items()
        if n not in CONTINUOUS or n in fixed or len(np.unique(v)) <= FEW
    }
    free = [n for n in arrays if n not in keys]
    # the median of some angles need not go with the other angles of an image
    if len(free) == 1 and not (free[0] in ANGLES and any(n in ANGLES for n in keys)):
        keys[free[0]] = _gather(arrays[free[0]])
    return keys


def _gather(values: np.ndarray) -> np.ndarray:
    """Replace many different values by the medians of 64 groups of neighbours."""
    order = np.argsort(values, kind="stable")
    gathered = np.empty_like(values)
    for members in np.array_split(order, FEW):
        gathered[members] = np.median(values[members])
    return gathered


def _drawn(
    prior: Prior, images: np.ndarray, own: Mapping[str, np.ndarray], num_draws: int, seed: int
) -> Iterator[Case]:
    """Cases of images that share a prior, some variables at values of their own."""
    context = {n: v[None] for n, v in draw_context(prior, num_draws, seed, replaced=own).items()}
    context |= {
        n: torch.from_numpy(v).float()[:, None].expand(-1, num_draws) for n, v in own.items()
    }
    context = dict(zip(context, torch.broadcast_tensors(*context.values()), strict=True))
    possible = is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))
    has_draw = possible.any(1).numpy()
    if has_draw.all():
        materials = Materials.of(prior).map(lambda f: f[None])
        yield Case(images, context, possible, materials, _class_weight(prior))
        return
    # of images whose angles go with no draw the other angles are drawn anew, under these
    for i in np.flatnonzero(~has_draw):
        given = prior.given({n: float(v[i]) for n, v in own.items()})
        yield from _drawn(given, images[i : i + 1], {}, num_draws, seed)
    if has_draw.any():
        rest = {n: v[has_draw] for n, v in own.items()}
        yield from _drawn(prior, images[has_draw], rest, num_draws, seed)


def _all_known(
    prior: Prior, shared: Mapping[str, object], arrays: Mapping[str, np.ndarray], num_images: int
) -> Case:
    """The case of a wholly known continuous context: one draw, hosts and dopants side by side."""
    context = {}
    for name in CONTINUOUS:
        value = np.asarray(arrays.get(name, shared.get(name)), np.float32)
        context[name] = torch.from_numpy(np.broadcast_to(value, num_images).copy())[:, None]
    names = {n: arrays[n].tolist() for n in ("host", "dopant") if n in arrays}
    rows = list(zip(*names.values(), strict=True)) if names else [()]
    material = {n: v for n, v in shared.items() if n in ("host", "dopant", "abundance")}
    priors = {
        row: prior.given(material | dict(zip(names, row, strict=True)))
        for row in dict.fromkeys(rows)
    }
    materials = {row: Materials.of(p) for row, p in priors.items()}
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
    together = (torch.stack(f) for f in zip(*(fields[row] for row in rows), strict=True))
    stacked = Materials(*together, next(iter(materials.values())).is_codoped)
    possible = is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))
    weights = {row: _class_weight(p) for row, p in priors.items()}
    class_weight = torch.cat([weights[row] for row in rows])
    return Case(np.arange(num_images), context, possible, stacked, class_weight)


def _class_weight(prior: Prior) -> Tensor:
    """Prior probability of the classes of a patch, shape (1, defect_class)."""
    return SitePrior.of_patches(prior, 1).mean


def rows_of(case: Case, rows: Tensor) -> Case:
    """Select some images of a case.

    Parameters
    ----------
    case : Case
        Of several images.
    rows : Tensor of int, shape (image,)
        Positions among the images of the case.

    Returns
    -------
    Case
        Of these images.
    """

    def pick(value: Tensor) -> Tensor:
        return value[rows] if len(value) > 1 else value

    context = {n: pick(v) for n, v in case.context.items()}
    images, possible = case.images[rows.numpy()], pick(case.possible)
    materials, class_weight = case.materials.map(pick), pick(case.class_weight)
    return Case(images, context, possible, materials, class_weight)
