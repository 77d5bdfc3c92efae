"""Everything that a patch can be: host and hypothesis together, with the labels of both."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from ..crystal import HOSTS, METALS
from ..defects import HYPOTHESES, formula_of
from ..model import NUM_PLAIN, NUM_UNDOPED, Materials
from ..model.table import DOPED_HYPOTHESIS, UNDOPED_HYPOTHESES

__all__ = ["by_outcome", "dopant_given_host", "dopants_of_patches", "outcome_labels"]

NUM_OUTCOMES = NUM_UNDOPED + len(METALS)  # of a site in one host


@functools.cache
def outcome_labels() -> dict[str, np.ndarray]:
    """Name every outcome of a site in every host.

    Returns
    -------
    dict of str to ndarray of str, shape (outcome,)
        ``outcome_host``, ``outcome_class``, ``outcome_species`` (chemical formula of the column
        with the elements in alphabetical order, "-" without atoms) and ``outcome_dopant`` (the
        dopant on the site, empty where there is none). They must not be changed.
    """
    rows = []
    for host in HOSTS:
        plain = [(HYPOTHESES[i], "") for i in UNDOPED_HYPOTHESES]
        doped = [(HYPOTHESES[DOPED_HYPOTHESIS], dopant) for dopant in METALS]
        for hypothesis, dopant in plain + doped:
            column = hypothesis.column(host, dopant or METALS[0])
            rows.append((host, hypothesis.defect, formula_of(tuple(sorted(column))), dopant))
    names = ("outcome_host", "outcome_class", "outcome_species", "outcome_dopant")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def by_outcome(materials: Materials, share: Tensor) -> np.ndarray:
    """Probabilities of all outcomes from those of the materials that were enumerated.

    Parameters
    ----------
    materials : Materials, shapes (image or 1, host, ...)
        Hosts and dopants.
    share : Tensor, shape (image, host, hypothesis)
        Probabilities of host and hypothesis.

    Returns
    -------
    ndarray, shape (image, outcome)
        In the order of ``outcome_labels``.
    """
    found = torch.zeros(len(share), len(HOSTS) * NUM_OUTCOMES, dtype=torch.float32)
    start = materials.host[..., None] * NUM_OUTCOMES
    plain = start + torch.arange(NUM_UNDOPED)
    place = torch.cat([plain, start + NUM_UNDOPED + materials.dopant], -1)
    return found.scatter_add_(1, place.expand(share.shape).flatten(1), share.flatten(1)).numpy()


def dopant_given_host(materials: Materials) -> np.ndarray:
    """Prior probability of the dopants of every host, under what is known of the image.

    Parameters
    ----------
    materials : Materials, shapes (image or 1, host, ...)
        Hosts and dopants.

    Returns
    -------
    ndarray, shape (image or 1, host_class, dopant_class)
        0 for hosts that are excluded.
    """
    num = len(materials.host)
    found = torch.zeros(num, len(HOSTS) * len(METALS), dtype=torch.float32)
    place = materials.host[..., None] * len(METALS) + materials.dopant
    weight = materials.dopant_weight * (materials.host_weight > 0)[..., None]
    found.scatter_add_(1, place.flatten(1), weight.flatten(1))
    return found.view(num, len(HOSTS), len(METALS)).numpy()


def dopants_of_patches(
    materials: Materials, share: Tensor, outcome: Tensor, dopant: Tensor
) -> dict[str, np.ndarray]:
    """Which dopant of a co-doped crystal is in the centre of patches that are images of their own.

    Parameters
    ----------
    materials : Materials, shapes (image or 1, host, ...)
        Hosts and dopants.
    share : Tensor, shape (image, host, hypothesis)
        Probabilities of host and hypothesis together.
    outcome, dopant : Tensor of int, shape (image, draw)
        Draws: outcome, and index into ``METALS``.

    Returns
    -------
    dict of str to ndarray
        ``dopant_at_site``, shape (image, 1, dopant_class), probabilities, and ``dopant_draws``,
        shape (image, draw, 1), -1 where the class is not that of the dopant; empty if the crystal
        is not co-doped.
    """
    if not materials.is_codoped:
        return {}
    found = torch.zeros(len(share), len(METALS), dtype=torch.float32)
    place = materials.dopant.expand(len(share), -1, -1).flatten(1)
    found.scatter_add_(1, place, share[..., NUM_UNDOPED:].flatten(1))
    held = torch.where(outcome < NUM_PLAIN, -1, dopant)
    return {
        "dopant_at_site": found.numpy()[:, None],
        "dopant_draws": held.numpy().astype(np.int8)[..., None],
    }
