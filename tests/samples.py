"""Crystals, conditions and random numbers that several tests use."""

import hashlib
from contextlib import contextmanager

import numpy as np
import torch

from bayesctx.context import Probe
from bayesctx.crystal import HOSTS
from bayesctx.defects import columns_of
from bayesctx.inference import patches as of_patches
from bayesctx.inference.refinement import empty_tally, log_prior_of
from bayesctx.nuisances import NUISANCES
from bayesctx.optics import chebyshev
from bayesctx.responses import NUM_ORDERS, load_table
from bayesctx.simulation import scene, spectra

PROBE = Probe(beam_energy=80e3, convergence_semiangle=25.0)

CELL = (2 * 3.18, 2 * 3.18 * 3**0.5)


def crystal(defect=None):
    """A 2 x 2 orthogonal cell of MoS2 with one metal column replaced."""
    a = HOSTS["MoS2"].lattice_constant
    origins = [
        ((i + o) * a, (j + o) * a * 3**0.5) for i in range(2) for j in range(2) for o in (0, 0.5)
    ]
    metal, pair = columns_of("M", "MoS2", "W")[0], columns_of("X2", "MoS2", "W")[0]
    columns = [(x, y, metal) for x, y in origins] + [(x, y + a / 3**0.5, pair) for x, y in origins]
    return [(*columns[0][:2], defect), *columns[1:]] if defect else columns


def rms(image, truth):
    return float(np.sqrt(((image - truth) ** 2).mean() / (truth**2).mean()))


def under_a_probe(coefficients, semiangle=25.0):
    """Response at some spatial frequencies to a probe: means of p and p² over its aperture."""
    q = chebyshev(torch.linspace(0, 0.6, 7, dtype=torch.float64), NUM_ORDERS).numpy()
    power = (semiangle / 40) ** 2
    return np.einsum(
        "to,of,t->f", coefficients, q, [1, power, 0, power**2 / 3, 2 * power**2 / 3, 0]
    )


def quiet(num=1):
    """Nuisances without effect, but a source size of 0.8 Å."""
    off = {n: torch.zeros(num) for n in NUISANCES}
    return off | {
        "vibration": torch.ones(num),
        "gain": torch.ones(num),
        "source_size": torch.full((num,), 0.8),
    }


def normal(clean, seed):
    """Standard normal variables for every pixel."""
    return torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def double_precision():
    """Set the default dtype of torch to float64; tables that were made before are made again."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        _forget_tables()
        yield
    finally:
        torch.set_default_dtype(before)
        _forget_tables()


def _forget_tables():
    for table in (load_table, scene.sites_around, spectra._table):
        table.cache_clear()


def digest(*arrays):
    """Checksum of values, shapes and types."""
    content = hashlib.sha256()
    for array in map(np.asarray, arrays):
        content.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return content.hexdigest()


def solve_table(table, features, materials, possible, class_weight, *, num_draws, generator):
    """Posterior of patches, each with a context of its own, under the draws of one table."""
    log_prior = log_prior_of(materials, class_weight)
    block = of_patches._tabulated(table, features, log_prior, possible)
    tally = empty_tally(*block.active.shape).add(block)
    return of_patches._draw([block], tally, materials, num_draws, generator)
