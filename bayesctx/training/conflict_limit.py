"""How much evidence there is against true claims."""

from __future__ import annotations

import torch
import xarray as xr
from tqdm import tqdm

from ..crystal import HOSTS
from ..defects import DEFECTS
from ..elements import METALS
from ..inference.conflict import NUM_SITES, conflict_with
from ..inference.image import Sites
from ..model import DefectModel
from ..simulation import BLOCK, draw_block

__all__ = ["fit_conflict"]

TRUE_CLAIMS = 0.01  # share of images about which all is true that are warned of


@torch.no_grad()
def fit_conflict(
    model: DefectModel, *, num_images: int = 400, seed: int = 0, progress: bool = True
) -> xr.DataArray:
    """Find out what evidence there is against true claims, and note its limit on the card of the model.

    Parameters
    ----------
    model : DefectModel
        Its card gets ``conflict_limit`` in nats, which one in a hundred images exceeds of which all but the dose is told, truly.
    num_images : int
        Images of 64 patches to simulate.
    seed : int
        Names their stream.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataArray, dimensions (image, claim)
        The evidence in nats.

    Notes
    -----
    If the likelihood were exact, one image in a hundred at most would exceed ln(100 k) in any of its k claims, by Markov's
    inequality: 6.7 nats for eight.
    """
    weight = torch.tensor([float(d in model.prior.defects) for d in DEFECTS])
    sites = Sites(
        torch.zeros(NUM_SITES, dtype=torch.long),
        torch.zeros(1, 1, dtype=torch.long),
        weight[None] + 1e-9,
    )
    found = []
    for block in tqdm(
        range(-(-num_images * NUM_SITES // BLOCK)), disable=not progress, unit="block"
    ):
        batch = draw_block(model.prior, seed, block, patches_per_image=NUM_SITES)
        for i, features in enumerate(model.encoder(batch.intensity)):
            told = {n: float(v[i]) for n, v in batch.context.items() if n != "dose"}
            told |= {"host": list(HOSTS)[batch.host[i]], "dopant": METALS[batch.dopant[i]]}
            found.append(conflict_with(told, features, sites, model, seed))
    rows, claims = [list(f.values()) for f in found], {"claim": list(found[0])}
    values = xr.DataArray(rows, claims, ("image", "claim"), attrs={"units": "nat"})
    model.card["conflict_limit"] = float(values.max("claim").quantile(1 - TRUE_CLAIMS))
    return values
