"""What may occur: hosts, dopants, imaging conditions, defects and nuisances, before an image is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution
from torch import Tensor

from .context import ADF_RULE, ANGLES, CONTEXT, is_annular_dark_field
from .crystal import DOPANTS, HOSTS
from .defects import DEFECTS
from .evidence import check_context, condition_on
from .nuisances import CONCENTRATION, NUISANCES, decode, encode, log_uniform, quantile

__all__ = ["CONTINUOUS", "MAX_TRIES", "Prior", "reference_prior", "tmd_prior"]

CONTINUOUS = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)
"""The continuous variables of the context, in the order of every array over them."""

MAX_TRIES = 16  # draws of a condition until the detector lies outside of the probe's cone


@dataclass(frozen=True)
class Prior:
    """Distribution of everything behind an image: ``simulate`` draws from it, a ``DefectModel`` infers under it.

    Attributes
    ----------
    conditions : tuple of mapping
        Alternative imaging conditions, equally probable: for each of ``CONTINUOUS`` a number, a tuple of candidates or a
        distribution, independent of each other but for the detector lying outside of the probe's cone.
    hosts : tuple of str
        Equally probable hosts; repeat one to give it more weight.
    dopants : mapping of str to tuple of str
        Equally probable dopants of every host.
    defects : tuple of str
        Equally probable classes of the site in the centre of a patch that somebody cut out.
    concentration : mapping of str to float
        Dirichlet parameters of the abundance of every class in a crystal: what the other sites carry.
    nuisances : mapping of str to Distribution
        By the names of ``NUISANCES``; one that is left out is zero.
    sampling : float
        Size of the pixels of a patch in Å.
    num_pixels : int
        Pixels along each side of a patch.
    """

    conditions: tuple[Mapping[str, object], ...]
    hosts: tuple[str, ...] = tuple(HOSTS)
    dopants: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {h: DOPANTS[HOSTS[h].metal] for h in HOSTS}
    )
    defects: tuple[str, ...] = DEFECTS
    concentration: Mapping[str, float] = field(default_factory=lambda: dict(CONCENTRATION))
    nuisances: Mapping[str, Distribution] = field(
        default_factory=lambda: {name: d for name, (_, d) in NUISANCES.items()}
    )
    sampling: float = 0.25
    num_pixels: int = 32

    def given(self, context: Mapping[str, object]) -> Prior:
        """Condition the prior on what is known of an image.

        Parameters
        ----------
        context : mapping
            As for ``infer``, one value per variable. A variable that a condition fixes to a number weeds out the
            conditions that contradict it; elsewhere the given value, candidates or distribution take the prior's place.

        Returns
        -------
        Prior
            The prior of what is left open.

        Raises
        ------
        ValueError
            If no host, dopant or condition of the prior agrees with the context.
        """
        known = check_context(context)
        hosts, dopants = self._materials(known)
        conditions = condition_on(self.conditions, known)
        if not conditions:
            raise ValueError(
                f"one of the {len(self.conditions)} conditions of the prior was expected, got {dict(known)}; none agrees"
            )
        return replace(self, hosts=hosts, dopants=dopants, conditions=conditions)

    def _materials(
        self, known: Mapping[str, object]
    ) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Hosts and dopants that agree with what is known; a dopant may be new to a host that was named."""
        hosts = _as_tuple(known.get("host")) or self.hosts
        asked = _as_tuple(known.get("dopant"))
        dopants = {}
        for host in hosts:
            usual = self.dopants.get(host, DOPANTS[HOSTS[host].metal])
            allowed = tuple(d for d in asked if d in usual) if asked else usual
            if asked and not allowed and "host" in known:
                allowed = tuple(d for d in asked if d != HOSTS[host].metal)
            if allowed:
                dopants[host] = allowed
        hosts = tuple(h for h in hosts if h in dopants)
        if not hosts:
            raise ValueError(
                f"a dopant of one of the hosts {', '.join(self.hosts)} was expected, got {asked}; name the host as well"
            )
        return hosts, dopants

    def quantiles(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Map the unit cube to the continuous context.

        Parameters
        ----------
        u : Tensor, shape (*batch, 7)
            In [0, 1): the condition, then one for each of ``CONTINUOUS``.

        Returns
        -------
        context : dict of str to Tensor, shape (*batch,)
            By the names of ``CONTINUOUS``, inside of the domains of ``CONTEXT``.
        possible : Tensor of bool, shape (*batch,)
            Whether the detector goes with the probe, see ``context.is_annular_dark_field``.

        Raises
        ------
        ValueError
            If a distribution has less than 1 % of its mass in the domain of its variable.
        """
        chosen = (u[..., 0] * len(self.conditions)).long().clamp(max=len(self.conditions) - 1)
        context = {}
        for i, name in enumerate(CONTINUOUS, 1):
            domain = CONTEXT[name].domain
            values = torch.stack([quantile(c[name], u[..., i], domain) for c in self.conditions])
            context[name] = values.gather(0, chosen[None])[0]
        return context, is_annular_dark_field(*(context[name] for name in ANGLES))

    def first_possible(self, u: Tensor) -> dict[str, Tensor]:
        """Continuous context from the first possible of several tries.

        Parameters
        ----------
        u : Tensor, shape (*batch, try, 7)
            As for ``quantiles``.

        Returns
        -------
        dict of str to Tensor, shape (*batch,)
            By the names of ``CONTINUOUS``. Where no try was possible, the first one of the batch
            that was takes its place.

        Raises
        ------
        ValueError
            If no try of the whole batch was possible.
        """
        context, possible = self.quantiles(u)
        if not bool(possible.any()):
            raise ValueError(
                f"angles of an annular dark-field detector ({ADF_RULE}) were expected, got none in "
                f"{possible.numel()} draws from the prior; check its ranges"
            )
        first = possible.long().argmax(-1, keepdim=True)
        found, other = possible.any(-1), possible.flatten().long().argmax()
        return {
            name: torch.where(found, value.gather(-1, first)[..., 0], value.flatten()[other])
            for name, value in context.items()
        }

    def domain(self, name: str) -> tuple:
        """Smallest and largest value of a continuous variable under the prior.

        Parameters
        ----------
        name : str
            One of ``CONTINUOUS``.

        Returns
        -------
        tuple of float
            Low and high, of an unbounded distribution its quantiles of 2**-25 and 1 - 2**-25.
        """
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        domain = CONTEXT[name].domain
        values = torch.stack([quantile(c[name], ends, domain) for c in self.conditions])
        # distributions hold their bounds in single precision
        return float(f"{float(values.min()):.6g}"), float(f"{float(values.max()):.6g}")

    def to_dict(self) -> dict[str, object]:
        """Return the prior as JSON values.

        Returns
        -------
        dict
            Read back by ``from_dict``.
        """
        return {
            "conditions": [{n: encode(v) for n, v in c.items()} for c in self.conditions],
            "hosts": list(self.hosts),
            "dopants": {h: list(d) for h, d in self.dopants.items()},
            "defects": list(self.defects),
            "concentration": dict(self.concentration),
            "nuisances": {n: encode(v) for n, v in self.nuisances.items()},
            "sampling": self.sampling,
            "num_pixels": self.num_pixels,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Prior:
        """Read a prior from JSON values.

        Parameters
        ----------
        values : mapping
            As returned by ``to_dict``.

        Returns
        -------
        Prior
            An equal prior.
        """
        return cls(
            conditions=tuple({n: decode(v) for n, v in c.items()} for c in values["conditions"]),
            hosts=tuple(values["hosts"]),
            dopants={h: tuple(d) for h, d in values["dopants"].items()},
            defects=tuple(values["defects"]),
            concentration=dict(values["concentration"]),
            nuisances={n: decode(v) for n, v in values["nuisances"].items()},
            sampling=values["sampling"],
            num_pixels=values["num_pixels"],
        )


def tmd_prior() -> Prior:
    """Prior of the 576 cases: 12 hosts with 8 dopants each under 6 imaging conditions.

    Returns
    -------
    Prior
        Beam energies of 60, 80 and 200 keV, each with a medium-angle (60-200 mrad) and a high-angle detector (80-250 mrad,
        80-200 at 200 keV).

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
    """Prior of the reference model: every doped material under any annular dark-field condition between 40 and 300 keV.

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
    """Prior of the 576 cases with so few nuisances that the exact posterior can be computed, see ``ExactModel``.

    Parameters
    ----------
    between : bool
        Any condition between those of the cases in their place: 60 to 200 keV, convergence 20 to 36 mrad, a detector from 45 to
        100 mrad on the inside and 200 to 250 mrad on the outside.

    Returns
    -------
    Prior
        A defect in a perfect crystal in focus, at 28 mrad unless between, and 1e4, 1e5 or 1e6 e/Å². Rotation, offset, source
        size, background, gain and dark level are unknown; there are no aberrations, and the scan is that of the patch.
    """
    free = {"rotation", "offset_x", "offset_y", "source_size", "background", "gain", "dark_level"}
    held = {"vibration": 1.0, "focal_spread": 30.0, "scan_step": 0.25, "readout": 0.5}
    probe = {"convergence_semiangle": 28.0, "defocus": 0.0, "dose": (1e4, 1e5, 1e6)}
    anywhere = {
        "beam_energy": log_uniform(60e3, 200e3),
        "convergence_semiangle": dist.Uniform(20.0, 36.0),
        "inner_collection_angle": log_uniform(45.0, 100.0),
        "outer_collection_angle": dist.Uniform(200.0, 250.0),
    }
    return Prior(
        (probe | anywhere,) if between else tuple(dict(c) | probe for c in tmd_prior().conditions),
        concentration={d: float(d in ("M", "X2", "hollow")) for d in DEFECTS},
        nuisances={name: d for name, (_, d) in NUISANCES.items() if name in free} | held,
    )


def _probe(convergence_semiangle: Distribution) -> dict[str, object]:
    """What every condition shares."""
    return {
        "convergence_semiangle": convergence_semiangle,
        "defocus": dist.Uniform(-60.0, 60.0),
        "dose": log_uniform(1e3, 1e6),
    }


def _as_tuple(value: object) -> tuple:
    """An observed value or candidates as a tuple."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if value is None else (value,)
