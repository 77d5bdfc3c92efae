"""Images that the posterior of a micrograph predicts, for posterior predictive checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from scipy.spatial import cKDTree

from .checks import check_seed, check_whole_number
from .composition import CONTINUOUS
from .context import NO_DOPANT
from .crystal import HOSTS, METALS, MONOLAYER_1H
from .defects import CODOPED_SPECIES, DEFECTS, SITES, SPECIES
from .evidence import Codoped
from .nuisances import NUISANCES
from .raster import synthesize_rows
from .simulation.spectra import add_columns, detector_spectra

__all__ = ["Columns", "predict_images", "read_draw", "render_draw"]

ANGLES = ("inner_collection_angle", "outer_collection_angle")
PROBE = (
    "source_size", "focal_spread", "C12", "phi12", "C21", "phi21", "C23", "phi23", "C30", "tilt",
    "tilt_azimuth", "vibration", "additivity",
)  # fmt: skip
PADDING = 5.0  # Å of crystal around the image
SAME = 0.4  # of the distance of neighbours: closer sites are one site
KINDS = MONOLAYER_1H.sites
PERFECT = np.array([DEFECTS.index(SITES[k][0]) for k in KINDS])


def predict_images(result: xr.DataTree, *, num_draws: int = 20, seed: int = 0) -> xr.DataArray:
    """Simulate images of worlds drawn from the posterior of a micrograph.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.
    num_draws : int
        Number of images, evenly spaced among the joint draws; at most as many as there are.
    seed : int
        Of what is drawn anew.

    Returns
    -------
    DataArray, dimensions (chain, draw, y, x), or (chain, draw, detector, y, x)
        ``intensity`` in the unit of the image, one chain.

    Raises
    ------
    TypeError, ValueError
        If it is no result of a micrograph, or a number is out of range.

    Notes
    -----
    Of each draw: context, probe, pixel size, and the class of every site with crystal. Drawn anew:
    the noise of the dose, shifts of the scan rows, displacements of the columns, and what the
    posterior does not have, from the default priors of the nuisances: by the network that is all of
    the probe but its aperture and focus, so that images differ more from each other than those of
    one scan. Sites lie where the lattice has them, and the crystal continues beyond the border.
    Gain, background and its slope are fitted to the observed image by least squares.
    """
    if not isinstance(result, xr.DataTree) or "site_x" not in result["constant_data"]:
        raise ValueError(
            "a result of a micrograph was expected, got another one; infer the whole image (y, x)"
        )
    number = check_whole_number("num_draws", num_draws, 1, 1000)
    seed, crystal = check_seed(seed), Columns.of(result)
    observed = result["observed_data"].intensity
    num_all = result["posterior"].sizes["chain"] * result["posterior"].sizes["draw"]
    chosen = np.linspace(0, num_all - 1, min(number, num_all)).round().astype(int)
    images = []
    for k in chosen.tolist():
        rng, values = np.random.default_rng([seed, k]), read_draw(result, k)
        clean = render_draw(values, crystal, crystal.species(values, rng), observed.shape[-2:], rng)
        exposure = values["dose"] * values["sampling"] ** 2
        images.append(_expose(clean, observed.values, crystal.near, exposure, rng))
    values = np.stack(images).reshape(1, len(images), *observed.shape).astype(np.float32)
    coordinates = {"chain": [0], "draw": np.arange(len(images))} | dict(observed.coords)
    return xr.DataArray(
        values, coordinates, ("chain", "draw", *observed.dims), "intensity", {"units": "counts"}
    )


def read_draw(result: xr.DataTree, index: int) -> dict[str, np.ndarray]:
    """Read the values of one joint draw off a result.

    Parameters
    ----------
    result : DataTree
        From ``infer`` on a micrograph.
    index : int
        Of the draw, over all chains.

    Returns
    -------
    dict of str to ndarray
        Drawn values, or else given ones; host and dopant by index, of a co-doped crystal also
        ``codopant``.
    """
    posterior, constants = result["posterior"].to_dataset(), result["constant_data"].to_dataset()
    chain, draw = divmod(index, posterior.sizes["draw"])
    values = {n: v.values for n, v in posterior.isel(chain=chain, draw=draw).items()}
    for name in (*CONTINUOUS, "sampling"):
        if name not in values:
            values[name] = constants[name].values
    for name, names in (("host", list(HOSTS)), ("dopant", METALS)):
        if name not in values:
            given = constants[name].item() if name in constants else None
            if "dopant_at_site" in values and name == "dopant":
                given, second = Codoped.parse(given).metals
                values["codopant"] = names.index(second)
            share = result["class_posterior"][name].values
            values[name] = int(share.argmax()) if given in (None, NO_DOPANT) else names.index(given)
    return values


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of a micrograph and beyond its border, (x, y) in px.

    Attributes
    ----------
    places : ndarray, shape (site, 2)
        Sites with crystal, then those beyond the border.
    kinds : ndarray of int, shape (assignment_class, site)
        Kind of every site under every assignment.
    inside : ndarray of int, shape (inside,)
        Position of the first ones among the sites of the result.
    near : ndarray of bool, shape (y, x)
        Pixels on crystal.
    """

    places: np.ndarray
    kinds: np.ndarray
    inside: np.ndarray
    near: np.ndarray

    @classmethod
    def of(cls, result: xr.DataTree) -> Columns:
        """Read the sites of a result, and continue the crystal.

        Parameters
        ----------
        result : DataTree
            From ``infer`` on a micrograph.

        Returns
        -------
        Columns
            Those beyond the border as well.
        """
        constants = result["constant_data"].to_dataset()
        places = np.stack([constants.site_x.values, constants.site_y.values], -1).astype(float)
        sublattice = constants.sublattice.values.astype(int)
        shape = result["observed_data"].intensity.shape[-2:]
        spacing = float(np.median(cKDTree(places).query(places, 2)[0][:, 1]))
        geometry = constants.get("lattice_site", constants.sublattice).values
        given = places, sublattice, geometry, shape, spacing, float(constants.sampling)
        beyond, kind = _continue(*given)
        present = constants.crystal.values if "crystal" in constants else np.ones(len(places))
        inside = np.flatnonzero(present)
        names = [str(a).split("-") for a in result["class_posterior"].assignment_class.values]
        table = np.array([[KINDS.index(s) for s in a] for a in names])
        pixels = np.stack(np.meshgrid(*map(np.arange, shape[::-1])), -1)
        near = cKDTree(places[inside]).query(pixels)[0] < spacing
        return cls(
            places=np.concatenate([places[inside], beyond]),
            kinds=table[:, np.concatenate([sublattice[inside], kind])],
            inside=inside,
            near=near,
        )

    def species(self, values: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """Draw a column of the class of every site; the crystal beyond the border is perfect.

        Parameters
        ----------
        values : mapping of str to ndarray
            See ``read_draw``.
        rng : numpy.random.Generator
            Which of the columns of a class.

        Returns
        -------
        ndarray of int, shape (site,)
            Index into ``SPECIES``, or ``CODOPED_SPECIES``.
        """
        kinds = self.kinds[int(values["assignment"])]
        defect = PERFECT[kinds]
        defect[: len(self.inside)] = values["defect"][self.inside]
        species = np.zeros(len(kinds), int)
        for c, k in set(zip(defect.tolist(), kinds.tolist(), strict=True)):
            here = (defect == c) & (kinds == k)
            columns = [i for i, s in enumerate(SPECIES) if s.defect == DEFECTS[c]]
            fitting = [i for i in columns if SPECIES[i].site == KINDS[k]]
            species[here] = rng.choice(fitting or columns, here.sum())
        if "codopant" in values:
            held = values["dopant_at_site"][self.inside] == values["codopant"]
            species[: len(held)][held] = CODOPED_SPECIES
        return species


def _continue(
    places: np.ndarray,
    sublattice: np.ndarray,
    geometry: np.ndarray,
    shape: tuple[int, int],
    spacing: float,
    sampling: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Sites beyond the border, by translations of those near it, with their sublattices."""
    limits, margin = np.array(shape[::-1]), PADDING / sampling
    own = geometry == geometry[np.argmin(np.linalg.norm(places - limits / 2, axis=1))]
    middle = np.argmin(np.where(own, np.linalg.norm(places - limits / 2, axis=1), np.inf))
    reach = 1.25 * 3**0.5 * spacing
    near = cKDTree(places[own]).query_ball_point(places[middle], reach)
    steps = places[own][near] - places[middle]
    steps = steps[np.linalg.norm(steps, axis=1) > SAME * spacing]
    known, kinds = places, sublattice
    for _ in range(1 + int(margin / spacing)):
        moved = (known[:, None] + steps).reshape(-1, 2)
        kind = np.repeat(kinds, len(steps))
        outside = ((moved < -0.5) | (moved > limits - 0.5)).any(1)
        outside &= ((moved > -margin) & (moved < limits + margin)).all(1)
        moved, kind = moved[outside], kind[outside]
        is_new = cKDTree(known).query(moved)[0] > SAME * spacing if len(moved) else outside[:0]
        moved, kind = moved[is_new], kind[is_new]
        if not len(moved):
            break
        twins = cKDTree(moved).query_ball_point(moved, SAME * spacing)
        first = np.array([min(t) == i for i, t in enumerate(twins)])
        known, kinds = (
            np.concatenate([known, moved[first]]),
            np.concatenate([kinds, kind[first]]),
        )
    return known[len(places) :], kinds[len(places) :]


def render_draw(
    values: Mapping[str, np.ndarray],
    crystal: Columns,
    species: np.ndarray,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """Render the image of some columns without noise.

    Parameters
    ----------
    values : mapping of str to ndarray
        See ``read_draw``.
    crystal : Columns
        Where the columns are.
    species : ndarray of int, shape (site,)
        Index into ``SPECIES``.
    shape : tuple of int
        Pixels (y, x).
    rng : numpy.random.Generator
        Of nuisances that were not inferred, from their prior, and of what is random in the image.

    Returns
    -------
    ndarray, shape (detector, y, x)
        As a fraction of the beam.
    """
    nuisances = {
        n: float(values[n]) if n in values else float(NUISANCES[n][1].icdf(torch.tensor(u)))
        for n, u in zip(PROBE, rng.random(len(PROBE), np.float32), strict=True)
    }
    jitter, disorder = (
        float(values.get(n, NUISANCES[d][1].mean))
        for n, d in (("row_jitter", "line_jitter"), ("disorder", "disorder"))
    )
    # of the rows only the first is known of patches
    jitters = [jitter, *(float(values.get(n, 0.0)) for n in ("row_jitter_y", "row_slant"))]
    image = {n: torch.tensor([float(values[n])]) for n in CONTINUOUS if n not in ANGLES}
    names = [n for n in ("host", "dopant", "codopant") if n in values]
    image |= {n: torch.tensor([int(values[n])]) for n in names}
    image |= {n: torch.from_numpy(np.atleast_2d(values[n]).astype(np.float32)) for n in ANGLES}
    sampling, size = float(values["sampling"]), np.array(shape[::-1])
    cell = tuple((size * sampling + 2 * PADDING).tolist())
    num = image["inner_collection_angle"].shape[1]
    num_species = len(SPECIES) + ("codopant" in values)
    deviation = torch.from_numpy(rng.standard_normal((1, num, num_species), np.float32))
    state = {n: torch.tensor([v]) for n, v in nuisances.items()}
    with torch.no_grad():
        spectra = detector_spectra(image, state, deviation, cell=cell)[0]
        offset = rng.normal(0, disorder, crystal.places.shape)
        positions = (crystal.places - (size - 1) / 2) * sampling + offset
        place, kind = torch.from_numpy(positions).float(), torch.from_numpy(species)
        total = torch.stack([add_columns(s, place, kind, cell=cell) for s in spectra])
        x, y = (
            torch.from_numpy((np.arange(n) - (n - 1) / 2) * sampling).float() for n in size.tolist()
        )
        shift = torch.from_numpy(rng.normal(0, jitters, (len(y), len(jitters)))).float()
        return synthesize_rows(total, x, y, shift, cell=cell).clamp(min=0).numpy()


def _expose(
    clean: np.ndarray,
    observed: np.ndarray,
    near: np.ndarray,
    exposure: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Noisy images, with gain, background and its slope as in the observed ones."""
    images = []
    y, x = np.indices(near.shape) / np.array(near.shape)[:, None, None] - 0.5
    for mine, values in zip(clean, observed.reshape(-1, *near.shape), strict=True):
        used = near & np.isfinite(values)
        terms = np.stack([mine, np.ones_like(mine), x, y], -1)
        found = np.linalg.lstsq(terms[used], values[used].astype(float), rcond=None)[0]
        gain, film = max(found[0], 0.0), terms[..., 1:] @ found[1:]
        # electrons of a film have noise as well; a negative background is one of the amplifier
        share = np.maximum(film / gain, 0) if gain > 0 else np.zeros_like(film)
        electrons = exposure * (mine + share)
        noise = (rng.poisson(electrons) - electrons) / exposure
        images.append(gain * (mine + noise) + film)
    return np.stack(images)
