"""The priors that are shipped."""

from __future__ import annotations

import pyro.distributions as dist
from pyro.distributions import TorchDistribution as Distribution

from ..defects import DEFECTS
from ..distributions import log_uniform
from ..nuisances import NUISANCES
from .image_prior import Prior

__all__ = ["limit_prior", "paper_prior", "reference_prior", "tmd_prior"]

# of the plain simulations of limit_prior and paper_prior
IN_FOCUS = {"convergence_semiangle": 28.0, "defocus": 0.0}
HELD = {"vibration": 1.0, "focal_spread": 30.0, "scan_step": 0.25, "readout": 0.5}
UNKNOWN = ("rotation", "offset_x", "offset_y", "source_size", "gain")
PERFECT = {d: float(d in ("M", "X2", "hollow")) for d in DEFECTS}


def tmd_prior() -> Prior:
    """Prior of the 576 cases: 12 hosts with 8 dopants each under 6 imaging conditions.

    Returns
    -------
    Prior
        Beam energies of 60, 80 and 200 keV, each with a medium-angle (60-200 mrad) and a
        high-angle detector (80-250 mrad, 80-200 at 200 keV).

    References
    ----------
    Dan et al., arXiv 2606.09419 (2026).
    """
    detectors = [
        (e, inner, outer)
        for e in (60e3, 80e3, 200e3)
        for inner, outer in ((60.0, 200.0), (80.0, 250.0 if e < 2e5 else 200.0))
    ]
    return Prior(tuple(_probe(dist.Uniform(20.0, 36.0)) | {
        "beam_energy": energy, "inner_collection_angle": inner, "outer_collection_angle": outer,
    } for energy, inner, outer in detectors))  # fmt: skip


def reference_prior() -> Prior:
    """Prior of the reference model: all materials, annular dark field between 40 and 300 keV.

    Returns
    -------
    Prior
        With continuous beam energy, convergence and collection angles.
    """
    return Prior((_probe(dist.Uniform(18.0, 38.0)) | {
        "beam_energy": log_uniform(40e3, 300e3),
        "inner_collection_angle": log_uniform(25.0, 120.0),
        "outer_collection_angle": log_uniform(55.0, 300.0),
    },))  # fmt: skip


def limit_prior(*, between: bool = False) -> Prior:
    """Prior of the 576 cases with few nuisances, for which ``ExactModel`` can be evaluated.

    Parameters
    ----------
    between : bool
        Take any condition between those of the cases instead of them: 60 to 200 keV,
        convergence 20 to 36 mrad, inner angle 45 to 100 mrad, outer angle 200 to 250 mrad.

    Returns
    -------
    Prior
        One defect in a perfect crystal in focus, at 1e4, 1e5 or 1e6 e/Å² and, unless
        ``between``, a convergence of 28 mrad. Rotation, offset, source size, background, gain and
        dark level are unknown. There are no aberrations; scan and patch have the same pixels.
    """
    probe = IN_FOCUS | {"dose": (1e4, 1e5, 1e6)}
    anywhere = {
        "beam_energy": log_uniform(60e3, 200e3),
        "convergence_semiangle": dist.Uniform(20.0, 36.0),
        "inner_collection_angle": log_uniform(45.0, 100.0),
        "outer_collection_angle": dist.Uniform(200.0, 250.0),
    }
    return Prior(
        (probe | anywhere,) if between else tuple(dict(c) | probe for c in tmd_prior().conditions),
        dirichlet_alpha=PERFECT,
        nuisances=_nuisances(*UNKNOWN, "background", "dark_level"),
    )


def paper_prior() -> Prior:
    """Prior of the 576 cases as a plain simulation with labels of columns has them.

    Returns
    -------
    Prior
        96 materials (12 hosts with 8 dopants each) under the 6 conditions of ``tmd_prior``, with a
        convergence of 28 mrad, in focus, at 1e3, 3e3, 1e4, 3e4, 1e5 or 1e6 e/Å². One column of a
        perfect crystal is M, D_M, X2, V_X or V_X2, with equal probabilities. Unknown are rotation,
        offset (0.25 Å, a pixel, either way), source size (0.5 to 1.4 Å) and gain. Held are a
        readout noise of 0.5 electrons, thermal vibrations, a focal spread of 30 Å and a scan with
        the pixels of the patch. There is nothing else: no aberrations, tilt, drift, jitter,
        relaxation, disorder, film or dark level.

    Notes
    -----
    How the paper defines classes and noise is not public; this is the plainest reading. The gain is
    unknown since images are normalised before they are classified. ``ExactModel`` can be evaluated
    under this prior.

    References
    ----------
    Dan et al., arXiv 2606.09419 (2026).
    """
    probe = IN_FOCUS | {"dose": (1e3, 3e3, 1e4, 3e4, 1e5, 1e6)}
    return Prior(
        tuple(dict(c) | probe for c in tmd_prior().conditions),
        defects=("M", "D_M", "X2", "V_X", "V_X2"),
        dirichlet_alpha=PERFECT,
        nuisances=_nuisances(*UNKNOWN),
    )


def _nuisances(*free: str) -> dict[str, object]:
    """Nuisances of a plain simulation: some with their default distribution, others held."""
    return {name: NUISANCES[name][1] for name in NUISANCES if name in free} | HELD


def _probe(convergence_semiangle: Distribution) -> dict[str, object]:
    """Convergence, focus and dose of a condition."""
    return {
        "convergence_semiangle": convergence_semiangle,
        "defocus": dist.Uniform(-60.0, 60.0),
        "dose": log_uniform(1e3, 1e6),
    }
