"""Prior of an image: hosts, dopants, imaging conditions, abundance of defects, and nuisances."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from ..checks import check_keys, check_mapping
from ..composition import (
    CONTINUOUS,
    DIRICHLET_ALPHA,
    check_abundance,
    check_alpha,
    check_conditions,
    check_defects,
    check_materials,
    check_pixels,
    choose_classes,
    choose_materials,
)
from ..context import ADF_RULE, CONTEXT, Detector, is_annular_dark_field
from ..crystal import DOPANTS, HOSTS
from ..defects import DEFECTS, DOPED
from ..distributions import decode, encode, quantile
from ..evidence import Codoped, check_codoping, check_context, condition_on
from ..nuisances import NUISANCES, check_nuisances

__all__ = ["MAX_TRIES", "Prior"]

MAX_TRIES = 16  # draws of a condition until the detector lies outside of the probe's cone


@dataclass(frozen=True, eq=False)
class Prior:
    """Distribution of an image: ``simulate`` draws from it, a ``DefectModel`` infers under it.

    Attributes
    ----------
    conditions : tuple of mapping
        Alternative imaging conditions, equally probable: for each of ``CONTINUOUS`` a number, a
        tuple of candidates or a distribution. Variables are independent, except that the detector
        is outside of the probe's cone.
    hosts : tuple of str
        Equally probable hosts; repeat one to give it more weight.
    dopants : mapping of str to tuple of str
        Equally probable dopants of every host.
    defects : tuple of str
        Equally probable classes of the central site of a training patch.
    dirichlet_alpha : mapping of str to float
        Parameters, for every class, of the Dirichlet distribution of the abundances in a crystal,
        from which all sites but the central one are drawn.
    abundance : mapping of str to float or Distribution
        Of classes whose share of the sites of their own kind is known or has a distribution of its
        own; the other classes divide what they leave as under ``dirichlet_alpha``.
    nuisances : mapping
        A number, a tuple of candidates or a distribution by the names of ``NUISANCES``. One that
        is left out is zero; the gain must be given. A distribution is truncated to what can be
        simulated, with a warning if more than 1 % of its mass is cut off.
    sampling : float
        Size of the pixels of a patch in Å.
    num_pixels : int
        Pixels along each side of a patch.
    is_codoped : bool
        Whether both dopants of a host are in the same crystal, where each site of the class
        ``D_M`` holds either; every host has two then. Their shares among the dopants are
        uniformly distributed.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is unknown or missing, or a value is outside of what can be simulated.

    Notes
    -----
    Priors are equal if ``to_dict`` is. Numbers become ``float``, lists tuples, and distributions
    single precision. Mappings are copied and must not be changed afterwards.
    """

    conditions: tuple[Mapping[str, object], ...]
    hosts: tuple[str, ...] = tuple(HOSTS)
    dopants: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {h: DOPANTS[HOSTS[h].metal] for h in HOSTS}
    )
    defects: tuple[str, ...] = DEFECTS
    dirichlet_alpha: Mapping[str, float] = field(default_factory=lambda: dict(DIRICHLET_ALPHA))
    abundance: Mapping[str, object] = field(default_factory=dict)
    nuisances: Mapping[str, object] = field(
        default_factory=lambda: {name: d for name, (_, d) in NUISANCES.items()}
    )
    sampling: float = 0.25
    num_pixels: int = 32
    is_codoped: bool = False

    def __post_init__(self) -> None:
        hosts, dopants = check_materials(self.hosts, self.dopants)
        checked = {
            "conditions": check_conditions(self.conditions),
            "hosts": hosts,
            "dopants": dopants,
            "defects": check_defects(self.defects),
            "dirichlet_alpha": check_alpha(self.dirichlet_alpha),
            "nuisances": check_nuisances(self.nuisances),
        } | check_pixels(self.sampling, self.num_pixels)
        checked["abundance"] = check_abundance(self.abundance, checked["dirichlet_alpha"])
        checked["is_codoped"] = check_codoping(self.is_codoped, dopants)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Whether ``to_dict`` of both is equal."""
        return self._key() == other._key() if isinstance(other, Prior) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> str:
        """Text that is the same for equal priors."""

        def written(value: object) -> object:
            try:
                return encode(value)
            except ValueError:  # a distribution that cannot be written equals only itself
                return f"{type(value).__name__} {id(value)}"

        return json.dumps(self._fields(), default=written, sort_keys=True)

    def _fields(self) -> dict[str, object]:
        """Value of every field; those that were added later only where they say something."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: v for n, v in values.items() if v or n not in ("abundance", "is_codoped")}

    @property
    def is_doped(self) -> bool:
        """Whether a site may hold a dopant."""
        known = (self.dirichlet_alpha[DOPED], DOPED in self.abundance, DOPED in self.defects)
        return any(known)

    def given(self, context: Mapping[str, object]) -> Prior:
        """Condition the prior on what is known of an image.

        Parameters
        ----------
        context : mapping
            As for ``infer``, one value per variable. Conditions with a number are weighted by its
            probability under the given value; candidates and distributions are replaced by it.
            A share of 0 in ``abundance``, for the dopant None that of ``D_M``, excludes a class,
            also at the centre of a patch.

        Returns
        -------
        Prior
            The prior given the context.

        Raises
        ------
        ValueError
            If no host, dopant or condition of the prior agrees with the context, or a value is an
            array over images.
        """
        known = check_context(context)
        arrays = [name for name, value in known.items() if isinstance(value, np.ndarray)]
        if arrays:
            raise ValueError(
                f"one value of {arrays[0]} was expected, got an array; condition the prior for "
                "each image by itself"
            )
        hosts, dopants = choose_materials(self.hosts, self.dopants, known)
        conditions = condition_on(self.conditions, known)
        if not conditions:
            raise ValueError(
                f"one of the {len(self.conditions)} conditions of the prior was expected, "
                f"got {dict(known)}; correct the context, or add a condition that agrees with it"
            )
        given = copy.copy(self)  # only what changes is checked: this is done for every image
        changed = {"hosts": hosts, "dopants": dopants, "conditions": tuple(conditions)}
        if "dopant" in known:
            changed["is_codoped"] = isinstance(known["dopant"], Codoped)
        changed |= choose_classes(self.defects, self.dirichlet_alpha, self.abundance, known)
        for name, value in changed.items():
            object.__setattr__(given, name, value)
        return given

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
        return context, is_annular_dark_field(
            context["convergence_semiangle"], Detector.of(context)
        )

    def first_possible(self, u: Tensor) -> dict[str, Tensor]:
        """Continuous context from the first possible of several tries.

        Parameters
        ----------
        u : Tensor, shape (*batch, try, 7)
            As for ``quantiles``.

        Returns
        -------
        dict of str to Tensor, shape (*batch,)
            By the names of ``CONTINUOUS``. Where no try is possible, the first possible one of the
            batch is taken.

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

        Raises
        ------
        ValueError
            If a distribution is none of Uniform, Normal, HalfNormal, Beta and ``log_uniform``,
            truncated or not.
        """
        return json.loads(json.dumps(self._fields(), default=encode))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Prior:
        """Read a prior from JSON values.

        Parameters
        ----------
        values : mapping
            From ``to_dict``. ``concentration`` is accepted as the former name of
            ``dirichlet_alpha``.

        Returns
        -------
        Prior
            A prior equal to the one that was written.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown or wrong.
        """
        values = dict(check_mapping(values, "the prior"))
        if "dirichlet_alpha" not in values and "concentration" in values:
            values["dirichlet_alpha"] = values.pop("concentration")
        values = {"abundance": {}, "is_codoped": False} | values
        check_keys(values, "entry of a prior", [f.name for f in fields(cls)])
        conditions = values["conditions"]
        if isinstance(conditions, list):
            conditions = [
                {n: decode(v) for n, v in check_mapping(c, "a condition").items()}
                for c in conditions
            ]
        decoded = {
            name: {n: decode(v) for n, v in check_mapping(values[name], name).items()}
            for name in ("nuisances", "abundance")
        }
        return cls(**values | decoded | {"conditions": conditions})
