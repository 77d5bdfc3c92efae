"""The neural likelihood: physical inputs of hypotheses, and the density of the features."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TorchDistribution as Distribution,
)
from torch import Tensor, nn

from .context import Detector
from .crystal import HOSTS, METALS
from .defects import DEFECTS, HYPOTHESES, SITES
from .optics import MAX_SEMIANGLE, chebyshev, wavelength
from .responses import NUM_ORDERS, LookUp, load_table

__all__ = [
    "CLASS_OF_HYPOTHESIS",
    "ContrastLikelihood",
    "NUM_INPUTS",
    "UNDERFLOW",
    "describe",
    "log_sum_exp",
    "mixture_log_prob",
    "mixture_slopes",
]

CLASS_OF_HYPOTHESIS = torch.tensor([DEFECTS.index(h.defect) for h in HYPOTHESES])
"""Index into ``DEFECTS`` of every hypothesis."""

METAL, CHALCOGEN = (
    next(i for i, h in enumerate(HYPOTHESES) if h.defect == SITES[site][0])
    for site in ("metal", "chalcogen")
)
# whether the column is on another kind of site than the first hypothesis of its class
ON_SECOND_SITE = torch.tensor([
    float(h.site != next(g.site for g in HYPOTHESES if g.defect == h.defect)) for h in HYPOTHESES
], dtype=torch.float32)  # fmt: skip
FREQUENCIES = (0.0, 0.35, 0.7)  # 1/Å, at which the responses are evaluated
SITE_INPUTS = len(DEFECTS) + 1
NUM_INPUTS = SITE_INPUTS + 19
"""Inputs of the network: class and site, 3 of the column's response, 6 of the host, 10 others."""


@functools.cache
def _hypothesis_table(device: torch.device) -> LookUp:
    """Columns of every hypothesis in every material, shape (host, dopant, hypothesis)."""
    columns = [h.column(host, dopant) for host in HOSTS for dopant in METALS for h in HYPOTHESES]
    found = load_table().look_up(columns)
    return found.reshape(len(HOSTS), len(METALS), len(HYPOTHESES)).to(device)


def describe(
    host: Tensor,
    dopant: Tensor,
    context: Mapping[str, Tensor],
    hypotheses: Sequence[int] | None = None,
) -> Tensor:
    """Inputs of the network for hypotheses: responses and conditions instead of names.

    Parameters
    ----------
    host, dopant : Tensor of int, shape (*batch,)
        Index into ``HOSTS`` and ``METALS``.
    context : mapping of str to Tensor
        By the names of ``prior.CONTINUOUS``; shapes broadcast against ``(*batch,)``.
    hypotheses : sequence of int, optional
        Indices into ``HYPOTHESES``. Default: all.

    Returns
    -------
    Tensor, shape (*batch, hypothesis, input)
        The class, the response of the column relative to the host's columns at three spatial
        frequencies, and the conditions, all of order one.
    """
    chosen = torch.arange(len(HYPOTHESES)) if hypotheses is None else torch.tensor(hypotheses)
    energy, angle = context["beam_energy"], context["convergence_semiangle"]
    detector = Detector.of(context)
    host, dopant = torch.broadcast_tensors(host, dopant)
    wanted = torch.cat([torch.tensor([METAL, CHALCOGEN]), chosen]).to(host.device)
    columns = _hypothesis_table(host.device)[host[..., None], dopant[..., None], wanted]
    strength = _responses(columns, energy, angle, detector)  # (*batch, hypothesis, frequency)
    metal, chalcogen = (strength[..., i : i + 1, :] for i in (0, 1))
    unit = (metal + chalcogen)[..., :1]
    relative = (strength / unit)[..., 2:, :]
    material = torch.cat([metal / unit, chalcogen / unit], -1)[..., 0, :]
    constants = [h.lattice_constant for h in HOSTS.values()]
    lattice = torch.tensor(constants, dtype=energy.dtype).to(energy)[host]
    cutoff = 2 * angle * 1e-3 / wavelength(energy)
    blur = context["defocus"] * (angle * 1e-3) ** 2 / wavelength(energy)
    values = [
        (lattice - 3.35) / 0.1,
        (energy / 100e3).log(),
        (angle - 28) / 6,
        (detector.inner_collection_angle / 60).log() / 0.4,
        (detector.outer_collection_angle / 170).log() / 0.4,
        cutoff - 1.5,
        blur,
        blur.square() - 1,
        # expected counts per unit cell
        (context["dose"] * unit[..., 0, 0]).log() / 2 - 3.5,
        (metal / chalcogen).log()[..., 0, 0],
    ]
    scalars = torch.stack(torch.broadcast_tensors(*values), -1)
    shared = torch.cat([material, scalars], -1)[..., None, :].expand(*relative.shape[:-1], -1)
    one_hot = nn.functional.one_hot(CLASS_OF_HYPOTHESIS[chosen], len(DEFECTS)).to(energy)
    second = ON_SECOND_SITE[chosen].to(energy)[:, None]
    site = torch.cat([one_hot, second], -1).expand(*relative.shape[:-1], -1)
    own = torch.stack(
        [(relative[..., 0] + 0.02).log() + 1, relative[..., 0] - 0.5, relative[..., 2] - 0.5], -1
    )
    return torch.cat([site, own, shared], -1)


def _responses(columns: LookUp, energy: Tensor, angle: Tensor, detector: Detector) -> Tensor:
    """Responses to a uniform aperture at a few frequencies, shape (*batch, column, frequency)."""
    coefficients = load_table().coefficients(columns, energy, detector)
    frequency = torch.tensor(FREQUENCIES, dtype=energy.dtype).to(energy)
    scale = wavelength(energy) / (2 * MAX_SEMIANGLE * 1e-3)
    polynomials = chebyshev(frequency * scale[..., None], NUM_ORDERS).movedim(0, -1)
    values = torch.einsum("...cto,...fo->...cft", coefficients, polynomials)
    power = ((angle / MAX_SEMIANGLE) ** 2)[..., None, None]
    # means of p and p² over the aperture
    mean = (
        values[..., 0]
        + power * values[..., 1]
        + power**2 / 3 * (values[..., 3] + 2 * values[..., 4])
    )
    blur = torch.exp(
        -2 * math.pi**2 * columns.displacement.to(energy)[..., None] ** 2 * frequency**2
    )
    return mean.clamp(min=0) * blur


MIN_SCALE = 0.03
UNDERFLOW = -80.0  # nats; exp() of a value that underflows takes ten times as long


class ContrastLikelihood(nn.Module):
    """Mixture of Gaussians over the contrast features, given a hypothesis and the context.

    Parameters
    ----------
    num_features : int
        Dimension of the features.
    num_components : int
        Components of the mixture.
    hidden : int
        Units of the two hidden layers.

    Attributes
    ----------
    width : Tensor, shape ()
        Common factor of all scales, see ``training.fit_width``.
    """

    def __init__(self, num_features: int = 32, num_components: int = 3, hidden: int = 320) -> None:
        super().__init__()
        self.num_features, self.num_components = num_features, num_components
        single = {"dtype": torch.float32}  # whatever the default dtype of torch
        self.register_buffer("width", torch.tensor(1.0, **single))
        self.net = nn.Sequential(
            nn.Linear(NUM_INPUTS, hidden, **single),
            nn.SiLU(),
            nn.Linear(hidden, hidden, **single),
            nn.SiLU(),
            nn.Linear(hidden, num_components * (2 * num_features + 1), **single),
        )

    def parameters_of(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of the mixture.

        Parameters
        ----------
        inputs : Tensor, shape (*batch, input)
            From ``hypotheses.describe``.

        Returns
        -------
        log_weight : Tensor, shape (*batch, component)
            Normalised log weights of the components.
        loc, scale : Tensor, shape (*batch, component, feature)
            Means and standard deviations of the Gaussians.
        """
        raw = self.net(inputs).unflatten(-1, (self.num_components, 2 * self.num_features + 1))
        loc, scale, weight = raw.split((self.num_features, self.num_features, 1), -1)
        return (
            weight[..., 0].log_softmax(-1),
            loc,
            self.width * (nn.functional.softplus(scale) + MIN_SCALE),
        )

    def forward(self, inputs: Tensor) -> Distribution:
        """Return p(features | hypothesis, context).

        Parameters
        ----------
        inputs : Tensor, shape (*batch, input)
            From ``hypotheses.describe``.

        Returns
        -------
        Distribution, batch shape (*batch,), event shape (feature,)
            Density of the contrast features.
        """
        log_weight, loc, scale = self.parameters_of(inputs)
        return MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(loc, scale), 1))


def mixture_slopes(log_weight: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Coefficients of the log densities of the components as quadratic functions of the features.

    Parameters
    ----------
    log_weight : Tensor, shape (*batch, *hypothesis, component)
        From ``ContrastLikelihood.parameters_of``.
    loc, scale : Tensor, shape (*batch, *hypothesis, component, feature)
        From ``ContrastLikelihood.parameters_of``.

    Returns
    -------
    Tensor, shape (*batch, *hypothesis, component, 2 feature + 1)
        Coefficients of the squared features, of the features and of one, for ``mixture_log_prob``.
    """
    precision = scale.reciprocal().square()
    constant = log_weight - 0.5 * (loc.square() * precision).sum(-1) - scale.log().sum(-1)
    constant = constant - scale.shape[-1] * 0.5 * math.log(2 * math.pi)
    return torch.cat([-0.5 * precision, precision * loc, constant[..., None]], -1)


def mixture_log_prob(features: Tensor, slopes: Tensor) -> Tensor:
    """Log density of every component for every patch, as one matrix product.

    Parameters
    ----------
    features : Tensor, shape (*batch, patch, feature)
        Contrast features.
    slopes : Tensor, shape (*batch, *hypothesis, component, 2 feature + 1)
        From ``mixture_slopes``.

    Returns
    -------
    Tensor, shape (*batch, patch, *hypothesis, component)
        log weight + log N(features; loc, scale); the log density of the mixture is their logsumexp
        over the components.

    Notes
    -----
    The square is expanded: -features² . precision / 2 + features . (precision loc) + constant.
    With features of order one and scales of at least 0.03 the cancellation in single precision
    stays below 0.01 nats.
    """
    lead = features.ndim - 2
    rows = torch.cat([features.square(), features, torch.ones_like(features[..., :1])], -1)
    return (rows @ slopes.flatten(lead, -2).mT).unflatten(-1, slopes.shape[lead:-1])


def log_sum_exp(values: Tensor) -> Tensor:
    """Logarithm of a sum of exponentials, faster than ``torch.logsumexp`` if terms underflow.

    Parameters
    ----------
    values : Tensor, shape (*batch, term)
        The largest term of every sum is finite.

    Returns
    -------
    Tensor, shape (*batch,)
        Terms more than 80 nats below the largest are raised to 80 nats below it.
    """
    peak = values.detach().amax(-1, keepdim=True)
    return (values - peak).clamp(min=UNDERFLOW).exp().sum(-1).log() + peak[..., 0]
