"""The result of an inference as an xarray.DataTree with ArviZ's groups, and its file."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from ..context import CONTEXT
from ..crystal import HOSTS
from ..defects import DEFECTS
from ..elements import METALS
from ..model import DefectModel
from .arrays import Posterior

__all__ = ["Layout", "build_tree"]


@dataclass(frozen=True)
class Layout:
    """How the image was handed in, and where its sites are.

    Attributes
    ----------
    dims : tuple of str
        Dimensions of the input.
    micrograph : bool
        Whether it is one image of many sites.
    observed : ndarray
        The input.
    positions : ndarray, shape (patch, 2), optional
        Sites of a micrograph in px, (y, x).
    sublattice : ndarray of int, shape (patch,), optional
        Sublattice of every site.
    sampling : float, optional
        Size of a pixel in Å.
    readings : tuple, optional
        What the sublattices can be.
    """

    dims: tuple[str, ...]
    micrograph: bool
    observed: np.ndarray
    positions: np.ndarray | None = None
    sublattice: np.ndarray | None = None
    sampling: float | None = None
    readings: tuple | None = None

    def with_sites(
        self, positions: np.ndarray, sublattice: np.ndarray, sampling: float, readings: tuple
    ) -> Layout:
        """Add the sites that were found.

        Parameters
        ----------
        positions, sublattice : ndarray, shapes (patch, 2) and (patch,)
            In px, (y, x), and the sublattice of each.
        sampling : float
            Size of a pixel in Å.
        readings : tuple
            What the sublattices can be.

        Returns
        -------
        Layout
            With them.
        """
        return replace(
            self, positions=positions, sublattice=sublattice, sampling=sampling, readings=readings
        )


def build_tree(
    posterior: Posterior, layout: Layout, known: Mapping[str, object], model: DefectModel, seed: int
) -> xr.DataTree:
    """Arrange a posterior as a DataTree with ArviZ's groups.

    Parameters
    ----------
    posterior : Posterior
        The arrays.
    layout : Layout
        Dimensions of the input: those that it did not have are left out.
    known : mapping
        The checked context.
    model : DefectModel
        Named by its hash.
    seed : int
        Of the draws.

    Returns
    -------
    DataTree
        See ``infer``.
    """
    has_image = "image" in layout.dims
    image = ("image",) if has_image else ()

    def of_image(values: np.ndarray) -> np.ndarray:
        return values if has_image else values[0]

    def sampled(values: np.ndarray, *dims: str, unit: str = "1") -> tuple:
        moved = np.moveaxis(values, 1, 0)[None] if has_image else values[0][None]
        return ("chain", "draw", *image, *dims), moved, {"units": unit}

    shared = posterior.defect.shape[1] > 1
    names = {"host_class": list(HOSTS), "dopant_class": list(METALS), "defect_class": list(DEFECTS)}
    variables = {
        n: sampled(posterior.draws[n], unit=CONTEXT[n].unit or "1") for n in posterior.latent
    }
    variables["defect"] = sampled(posterior.defect_draws, "patch")
    probabilities = {
        "defect": ((*image, "patch", "defect_class"), of_image(posterior.defect), {"units": "1"}),
        "host": ((*image, "host_class"), of_image(posterior.host), {"units": "1"}),
        "dopant": ((*image, "dopant_class"), of_image(posterior.dopant), {"units": "1"}),
    }
    if shared:
        variables["concentration"] = sampled(posterior.concentration, "defect_class")
    if layout.readings:
        variables["reading"] = sampled(posterior.draws["reading"])
        names["reading_class"] = ["-".join(r) for r in layout.readings]
        probabilities["reading"] = (("reading_class",), posterior.reading, {"units": "1"})
    prior = {
        n: sampled(posterior.prior_draws[n], unit=CONTEXT[n].unit or "1") for n in posterior.latent
    }
    datasets = {
        "posterior": xr.Dataset(
            variables, names | {"chain": [0], "draw": np.arange(posterior.num_draws)}
        ),
        "class_posterior": xr.Dataset(probabilities, names),
        "log_likelihood": xr.Dataset(
            {"contrast": sampled(posterior.log_likelihood, "patch", unit="nat")}
        ),
        "prior": xr.Dataset(prior),
        "sample_stats": _statistics(posterior, image, model),
        "observed_data": xr.Dataset(
            {"intensity": (layout.dims, layout.observed, {"units": "counts"})}
        ),
        "constant_data": _constants(layout, known, image),
    }
    attributes = {
        "package": "bayesctx",
        "version": importlib.metadata.version("bayesctx"),
        "model": model.hash(),
        "seed": seed,
        "context": json.dumps({n: _plain(v) for n, v in known.items()}),
    }
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs = attributes
    return tree


def _statistics(posterior: Posterior, image: tuple[str, ...], model: DefectModel) -> xr.Dataset:
    """Effective number of draws, how strange every patch is, and the evidence against claims about images of several patches."""
    statistics = {"ess": (image, posterior.ess if image else posterior.ess[0], {"units": "1"})}
    if posterior.surprise is not None:
        attributes = {
            "units": "nat",
            "long_name": "log density of strangers over that of patches of the prior",
        }
        attributes["limit"] = float(model.card["surprise_limit"])
        statistics["surprise"] = (
            (*image, "patch"),
            posterior.surprise if image else posterior.surprise[0],
            attributes,
        )
    claims = list(posterior.conflict)
    if claims:
        values = np.stack([posterior.conflict[c] for c in claims], -1)
        attributes = {
            "units": "nat",
            "long_name": "log Bayes factor of leaving the claim open against taking it",
        }
        statistics["conflict"] = ((*image, "claim"), values if image else values[0], attributes)
    return xr.Dataset(statistics, {"claim": claims} if claims else None)


def _constants(layout: Layout, known: Mapping[str, object], image: tuple[str, ...]) -> xr.Dataset:
    """The observed context and the sites of a micrograph."""
    variables = {}
    for name, value in known.items():
        if isinstance(value, float | str):
            variables[name] = ((), value, {"units": CONTEXT[name].unit or "1"})
        elif isinstance(value, np.ndarray):
            variables[name] = (image, value, {"units": CONTEXT[name].unit or "1"})
    if layout.positions is not None:
        variables["site_y"] = ("patch", layout.positions[:, 0].astype(np.float32), {"units": "px"})
        variables["site_x"] = ("patch", layout.positions[:, 1].astype(np.float32), {"units": "px"})
        variables["sublattice"] = ("patch", layout.sublattice.astype(np.int8), {"units": "1"})
        variables["sampling"] = ((), layout.sampling, {"units": CONTEXT["sampling"].unit})
    return xr.Dataset(variables)


def _plain(value: object) -> object:
    """A context value as JSON."""
    if isinstance(value, torch.distributions.Distribution):
        return str(value)
    return value.tolist() if isinstance(value, np.ndarray) else value
