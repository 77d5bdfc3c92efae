"""Results of micrographs of which every draw is known."""

import numpy as np
import xarray as xr
from drawing import draw_sites

from bayesctx.crystal import HOSTS, METALS, MONOLAYER_1H
from bayesctx.defects import DEFECTS, SITES

KINDS = MONOLAYER_1H.sites
SAMPLING = 0.2
LATTICE = HOSTS["WSe2"].lattice_constant / SAMPLING


def index(*names):
    """Position of classes among all."""
    return [DEFECTS.index(n) for n in names]


def perfect_classes(sublattice):
    """Class of every site of a perfect crystal, metal on the first sublattice."""
    return np.array(index(*(SITES[k][0] for k in KINDS)))[sublattice]


def make_result(draws, sites, sublattice, *, given=None, variables=None, shape=(200, 200)):
    """A result with the given draws of the classes, shape (sample, site), and their frequencies."""
    num = len(draws)
    share = np.stack([(draws == k).mean(0) for k in range(len(DEFECTS))], -1)
    names = {"host": list(HOSTS), "dopant": list(METALS)}
    given = {"host": "WSe2", "dopant": "Ti"} if given is None else given
    drawn = variables or {}
    classes = {
        n: np.bincount(drawn[n], minlength=len(v)) / num
        if n in drawn
        else np.array([float(given.get(n) == k) for k in v])
        for n, v in names.items()
    }
    assignments = ["-".join(a) for a in MONOLAYER_1H.assignments]
    chosen = drawn.get("assignment", np.zeros(num, int))
    posterior = {n: (("chain", "draw"), v[None].astype(np.int8)) for n, v in drawn.items()}
    posterior["defect"] = (("chain", "draw", "patch"), draws[None].astype(np.int8))
    posterior["assignment"] = (("chain", "draw"), chosen[None].astype(np.int8))
    weight = np.bincount(chosen, minlength=len(assignments)) / num
    found = {
        "defect": (("patch", "defect_class"), share.astype(np.float32)),
        "host": ("host_class", classes["host"]),
        "dopant": ("dopant_class", classes["dopant"]),
        "assignment": ("assignment_class", weight),
    }
    coordinates = {
        "defect_class": list(DEFECTS), "host_class": names["host"],
        "dopant_class": names["dopant"], "assignment_class": assignments,
    }  # fmt: skip
    constants = {
        "site_y": ("patch", sites[:, 0]), "site_x": ("patch", sites[:, 1]),
        "sublattice": ("patch", sublattice.astype(np.int8)),
        "crystal": ("patch", np.ones(len(sites), np.int8)), "sampling": SAMPLING,
    }  # fmt: skip
    return xr.DataTree.from_dict({
        "posterior": xr.Dataset(posterior),
        "class_posterior": xr.Dataset(found, coordinates),
        "sample_stats": xr.Dataset({"ess": float(num)}),
        "observed_data": xr.Dataset({"intensity": (("y", "x"), np.ones(shape))}),
        "constant_data": xr.Dataset(constants | given),
    })  # fmt: skip


def draw_crystal(
    num_draws, *, seed=0, shape=(200, 200), defects=("D_M", "V_X"), share=0.05, **lattice
):
    """Sites, sublattices and draws of independent defects."""
    sites, sublattice = draw_sites(shape, LATTICE, **lattice)
    rng = np.random.default_rng(seed)
    draws = np.tile(perfect_classes(sublattice), (num_draws, 1))
    for name in defects:
        kind = next(k for k, s in enumerate(KINDS) if name in SITES[s])
        here = (sublattice == kind) & (rng.random(draws.shape) < share)
        draws[here] = DEFECTS.index(name)
    return draws, sites, sublattice
