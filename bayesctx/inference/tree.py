"""The result of an inference as an xarray.DataTree with ArviZ's groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from .. import __version__
from ..context import CONTEXT, NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, DOPED
from ..distributions import encode
from ..evidence import Codoped
from ..model import PatchModel, SitePrior
from ..nuisances import NUISANCES
from .arrays import Posterior
from .detectors import OF_DETECTOR, Rings
from .domains import Domains
from .inputs import Inputs
from .outcomes import outcome_labels

__all__ = ["Sites", "add_absent_sites", "build_tree"]

Variable = tuple[tuple[str, ...], object, dict[str, object]]


@dataclass(frozen=True, eq=False)
class Sites:
    """The sites of a micrograph as they are reported.

    Attributes
    ----------
    positions : ndarray, shape (patch, 2)
        (y, x) in px.
    sublattice : ndarray of int, shape (patch,)
        Sublattice of every site.
    crystal : ndarray of bool, shape (patch,)
        Whether there is crystal at the site.
    sampling : float
        Size of a pixel in Å.
    assignments : tuple of tuple of str
        Kinds of site of the sublattices under each assignment.
    domains : Domains or None
        If the crystal has several.
    """

    positions: np.ndarray
    sublattice: np.ndarray
    crystal: np.ndarray
    sampling: float
    assignments: tuple[tuple[str, ...], ...]
    domains: Domains | None = None


def build_tree(
    posterior: Posterior,
    surprise: np.ndarray | None,
    inputs: Inputs,
    sites: Sites | None,
    rings: Rings,
    model: PatchModel,
    seed: int,
) -> xr.DataTree:
    """Arrange a posterior as a DataTree with ArviZ's groups.

    Parameters
    ----------
    posterior : Posterior
        The arrays.
    surprise : ndarray, shape (image, patch) or (image, detector, patch), optional
        Log density ratio of outliers to patches of the prior, in nats.
    inputs : Inputs
        Its dimensions: those that the input did not have are left out.
    sites : Sites, optional
        Of a micrograph.
    rings : Rings
        What is known, and the names of the detectors.
    model : PatchModel
        Named by its hash.
    seed : int
        Of the draws.

    Returns
    -------
    DataTree
        See ``infer``.
    """
    image, known = ("image",) if "image" in inputs.dims else (), rings.shared
    detector = {"detector": list(rings.names)} if rings.names else {}
    assignments = None if sites is None else sites.assignments
    names = {"host_class": list(HOSTS), "dopant_class": list(METALS), "defect_class": list(DEFECTS)}
    if assignments is not None:
        names["assignment_class"] = ["-".join(a) for a in assignments]
    chains = posterior.num_chains
    draw = {"chain": np.arange(chains), "draw": np.arange(posterior.num_draws // chains)}
    of_draws = names | detector | draw
    if posterior.dopant_share is not None:
        of_draws |= {"codopant": list(known["dopant"].metals)}
    labels = {} if posterior.outcome is None else outcome_labels()
    names |= {n: ("outcome", v) for n, v in labels.items()}
    found = posterior.log_likelihood
    name, dims = ("contrast", ("patch",)) if found.ndim > 2 else ("image", ())
    contrast = {name: _drawn(found, image, *dims, unit="nat", chains=chains)}
    prior = {n: _drawn(v, image, unit=_unit(n)) for n, v in posterior.prior_draws.items()}
    tree = xr.DataTree.from_dict({
        "posterior": xr.Dataset(_posterior(posterior, image, sites), of_draws),
        "class_posterior": xr.Dataset(_probabilities(posterior, image, sites, known), names),
        "log_likelihood": xr.Dataset(contrast),
        "prior": xr.Dataset(prior, detector),
        "sample_stats": _statistics(posterior, surprise, image, model).assign_coords(detector),
        "observed_data": xr.Dataset(
            {"intensity": (inputs.dims, inputs.observed, {"units": "counts"})}, detector
        ),
        "constant_data": _constants(posterior, sites, rings, image).assign_coords(detector),
    })  # fmt: skip
    tree.attrs = {
        "package": "bayesctx",
        "version": __version__,
        "model": model.hash(),
        "seed": seed,
        "context": json.dumps({n: _plain(v) for n, v in rings.stated().items()}),
    }
    return tree


def _unit(name: str) -> str:
    """Unit of a variable of context or nuisances, 1 where it has none."""
    if name in ("row_jitter", "row_jitter_y"):
        return "Å"
    return (CONTEXT[name].unit if name in CONTEXT else NUISANCES.get(name, ("",))[0]) or "1"


def _drawn(
    values: np.ndarray, image: tuple[str, ...], *dims: str, unit: str = "1", chains: int = 1
) -> Variable:
    """Draws, shape (image, draw, ...), as a variable over chain and draw."""
    if values.ndim == 3 and not dims:
        dims = ("detector",)
    moved = np.moveaxis(values, 1, 0) if image else values[0]
    moved = moved.reshape(chains, -1, *moved.shape[1:])
    return ("chain", "draw", *image, *dims), moved, {"units": unit}


def _of_image(
    values: np.ndarray, image: tuple[str, ...], *dims: str, **attributes: object
) -> Variable:
    """Values with a leading dimension over images, which is left out where the input has none."""
    return (*image, *dims), values if image else values[0], {"units": "1"} | attributes


def _posterior(
    posterior: Posterior, image: tuple[str, ...], sites: Sites | None
) -> dict[str, Variable]:
    """Draws of the latent context, of the classes and of the abundances."""
    draws = {n: v for n, v in posterior.draws.items() if n != "assignment" or sites is not None}
    chains = posterior.num_chains
    variables = {n: _drawn(v, image, unit=_unit(n), chains=chains) for n, v in draws.items()}
    variables["defect"] = _drawn(posterior.defect_draws, image, "patch", chains=chains)
    if posterior.dopant_draws is not None:
        variables["dopant_at_site"] = _drawn(posterior.dopant_draws, image, "patch", chains=chains)
    if posterior.dopant_share is not None:
        share = _drawn(posterior.dopant_share, image, "codopant", chains=chains)
        variables["dopant_share"] = share
    if posterior.concentration is not None:
        variables["concentration"] = _drawn(
            posterior.concentration, image, "defect_class", chains=chains
        )
    return variables


def _probabilities(
    posterior: Posterior,
    image: tuple[str, ...],
    sites: Sites | None,
    known: Mapping[str, object],
) -> dict[str, Variable]:
    """Probabilities of everything that is enumerated; no dopant has any in an undoped crystal."""
    dopant = known.get("dopant", "")
    dopants = dopant if isinstance(dopant, np.ndarray) else [dopant]
    is_doped = np.array([d is not None for d in dopants], np.float32)[:, None]
    found = {
        "defect": _of_image(posterior.defect, image, "patch", "defect_class"),
        "host": _of_image(posterior.host, image, "host_class"),
        "dopant": _of_image(posterior.dopant * is_doped, image, "dopant_class"),
    }
    if posterior.defect_error is not None:
        about = {"long_name": "Monte Carlo standard error of defect"}
        dims = "patch", "defect_class"
        found["defect_error"] = _of_image(posterior.defect_error, image, *dims, **about)
    if posterior.defect_host is not None:
        dims = "patch", "defect_class", "host_class"
        found["defect_host"] = _of_image(posterior.defect_host, image, *dims)
    if posterior.dopant_at_site is not None:
        found["dopant_at_site"] = _of_image(
            posterior.dopant_at_site, image, "patch", "dopant_class"
        )
    if posterior.outcome is not None:
        found["outcome"] = _of_image(posterior.outcome, image, "patch", "outcome")
    if sites is not None:
        found["assignment"] = _of_image(posterior.assignment, image, "assignment_class")
    return found


def _statistics(
    posterior: Posterior, surprise: np.ndarray | None, image: tuple[str, ...], model: PatchModel
) -> xr.Dataset:
    """Effective number of draws, surprise of every patch, and evidence against claims."""
    statistics = {"ess": _of_image(posterior.ess, image)}
    if surprise is not None:
        statistics["surprise"] = _of_image(
            surprise,
            image,
            *(("detector",) if surprise.ndim == 3 else ()),
            "patch",
            units="nat",
            long_name="log density of outliers over that of patches of the prior",
            limit=float(model.card["surprise_limit"]),
        )
    claims = list(posterior.conflict)
    if claims:
        conflict = np.stack([posterior.conflict[c] for c in claims], -1)
        statistics["conflict"] = _of_image(
            conflict,
            image,
            *(("detector",) if conflict.ndim == 3 else ()),
            "claim",
            units="nat",
            long_name="log Bayes factor of leaving the claim open against taking it",
        )
    coordinates = {"claim": claims} if claims else {}
    if posterior.diagnosis:
        coordinates["variable"] = list(posterior.diagnosis)
        ess, r_hat = np.array(list(posterior.diagnosis.values()), np.float32).T
        statistics["ess_bulk"] = ("variable", ess, {"units": "1"})
        statistics["r_hat"] = ("variable", r_hat, {"units": "1"})
    if posterior.residual_correlation is not None:
        found, chains = posterior.residual_correlation, posterior.num_chains
        dims = ("axis", "lag") if found.ndim == 4 else ("detector", "axis", "lag")
        statistics["residual_correlation"] = _drawn(found, image, *dims, chains=chains)
        coordinates |= {"axis": ["y", "x"], "lag": ("lag", [1, 2], {"units": "px"})}
    return xr.Dataset(statistics, coordinates)


def _constants(
    posterior: Posterior, sites: Sites | None, rings: Rings, image: tuple[str, ...]
) -> xr.Dataset:
    """The observed context and the sites of a micrograph."""
    variables = {
        n: (image if isinstance(v, np.ndarray) else (), _written(v), {"units": _unit(n)})
        for n, v in rings.shared.items()
        if isinstance(v, float | str | np.ndarray | Codoped | None)
    }
    if posterior.dopant_given_host is not None:
        dims = "host_class", "dopant_class"
        before = _of_image(posterior.dopant_given_host, image, *dims)
        variables["dopant_given_host"] = before
    for name in OF_DETECTOR if rings.names else ():
        values = [own.get(name) for own in rings.own]
        if all(isinstance(v, float) for v in values):
            variables[name] = ("detector", values, {"units": _unit(name)})
    if sites is not None:
        y, x = sites.positions.astype(np.float32).T
        variables["site_y"] = ("patch", y, {"units": "px"})
        variables["site_x"] = ("patch", x, {"units": "px"})
        variables["sublattice"] = ("patch", sites.sublattice.astype(np.int8), {"units": "1"})
        if sites.domains is not None:
            domain = {"units": "1", "long_name": "domain of the crystal, 0 is the largest"}
            place = {"units": "1", "long_name": "position in the cell, the same in all domains"}
            variables["domain"] = ("patch", sites.domains.label.astype(np.int8), domain)
            variables["lattice_site"] = "patch", sites.domains.sublattice.astype(np.int8), place
        crystal = {"units": "1", "long_name": "whether there is crystal at the site"}
        variables["crystal"] = ("patch", sites.crystal.astype(np.int8), crystal)
        variables["sampling"] = ((), sites.sampling, {"units": _unit("sampling")})
    names = {"host_class": list(HOSTS), "dopant_class": list(METALS)}
    return xr.Dataset(variables, names if "dopant_given_host" in variables else {})


def _written(value: object) -> object:
    """An observed value as netCDF can hold it."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array([_written(v) for v in value])
    if isinstance(value, Codoped):
        return str(value)
    return NO_DOPANT if value is None else value


def _plain(value: object) -> object:
    """A context value as JSON."""
    if isinstance(value, Mapping):
        return {n: _plain(v) for n, v in value.items()}
    if isinstance(value, Codoped):
        return str(value)
    return value.tolist() if isinstance(value, np.ndarray) else _share(value)


def _share(value: object) -> object:
    """A value, with the parameters of a distribution where the package can write them."""
    try:
        return encode(value)
    except ValueError:
        return str(value)


def add_absent_sites(
    posterior: Posterior,
    surprise: np.ndarray | None,
    present: np.ndarray,
    sites: SitePrior,
    seed: int,
) -> tuple[Posterior, np.ndarray | None]:
    """Put sites without crystal between those of a posterior.

    Parameters
    ----------
    posterior : Posterior
        Of one micrograph, of its sites with crystal.
    surprise : ndarray, shape (image, patch) or (image, detector, patch), optional
        Of the same sites, in nats.
    present : ndarray of bool, shape (patch,)
        Whether there is crystal at each of all sites.
    sites : SitePrior
        Of all sites.
    seed : int
        Of the draws.

    Returns
    -------
    posterior : Posterior
        Of all sites. Those without crystal are no data: they have the mean abundances of the prior
        over the kinds of site, draws from these, and a log likelihood of zero.
    surprise : ndarray of the same shape but for the patches, or None
        Zero where there is no crystal.
    """
    if present.all():
        return posterior, surprise
    rng = np.random.default_rng([seed, len(present)])
    # without a lattice around it a site is of any kind
    abundance = sites.mean.double().numpy().mean(0)
    abundance /= abundance.sum()
    shape = posterior.num_draws, np.count_nonzero(~present)
    classes = rng.choice(len(abundance), shape, p=abundance)
    nothing = np.zeros(1)
    if surprise is not None:
        surprise = _interleave(surprise, nothing, present, surprise.ndim - 1)
    with_host, at_site = posterior.defect_host, posterior.dopant_at_site
    if with_host is not None:
        with_host = _interleave(with_host, abundance[:, None] * posterior.host[0], present, 1)
    if at_site is not None:
        doped = abundance[DEFECTS.index(DOPED)]
        at_site = _interleave(at_site, doped * posterior.dopant[0], present, 1)
    dopants = posterior.dopant_draws
    if dopants is not None:
        metals = np.flatnonzero(posterior.dopant[0])
        second = rng.random(shape) < posterior.dopant_share[0, :, 1:]
        absent = np.where(classes == DEFECTS.index(DOPED), metals[second.astype(int)], -1)
        dopants = _interleave(dopants, absent, present, 2)
    posterior = replace(
        posterior,
        dopant_draws=dopants,
        defect_host=with_host,
        dopant_at_site=at_site,
        defect=_interleave(posterior.defect, abundance, present, 1),
        defect_draws=_interleave(posterior.defect_draws, classes, present, 2),
        log_likelihood=(
            _interleave(posterior.log_likelihood, nothing, present, 2)
            if posterior.log_likelihood.ndim > 2
            else posterior.log_likelihood
        ),
    )
    return posterior, surprise


def _interleave(
    with_crystal: np.ndarray, without: np.ndarray, present: np.ndarray, axis: int
) -> np.ndarray:
    """Values of all sites along an axis, in the order of the sites."""
    shape = list(with_crystal.shape)
    shape[axis] = len(present)
    values = np.empty(shape, with_crystal.dtype)
    before = (slice(None),) * axis
    values[(*before, present)] = with_crystal
    values[(*before, ~present)] = without
    return values
