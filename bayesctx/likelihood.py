"""The neural likelihood: the density of the contrast features of a patch, given the column in its centre and the context."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from pyro.distributions import Categorical, Independent, MixtureSameFamily, Normal, TorchDistribution as Distribution
from torch import Tensor, nn

from .optics import MAX_SEMIANGLE, wavelength
from .scattering import LookUp, chebyshev, load_table
from .structure import DEFECTS, HOSTS, METALS, columns_of

__all__ = ["HYPOTHESES", "UNDERFLOW", "ContrastLikelihood", "describe", "log_sum_exp", "mixture_log_prob", "mixture_slopes"]

HYPOTHESES = (
    ("M", 0), ("D_M", 0), ("V_M", 0), ("X_M", 0), ("X2_M", 0), ("X2", 0), ("V_X", 0), ("V_X2", 0), ("O_X", 0),
    ("Y_X", 0), ("Y_X", 2), ("M_X", 0), ("hollow", 0), ("adatom_M", 0), ("adatom_M", 1),
)  # fmt: skip
"""Classes with their alternatives of different composition or place; which chalcogen plane is hit does not matter."""

HYPOTHESIS_DEFECT = torch.tensor([DEFECTS.index(d) for d, _ in HYPOTHESES])
DOPED = [i for i, (d, _) in enumerate(HYPOTHESES) if d == "D_M"][0]
FREQUENCIES = (0.0, 0.35, 0.7)  # 1/Å, where the responses are read
MIN_SCALE = 0.03
UNDERFLOW = -80.0  # nats; an exponential that underflows takes ten times as long


class ContrastLikelihood(nn.Module):
    """Mixture of Gaussians over the contrast features, given a hypothesis and the context.

    Parameters
    ----------
    num_features : int
        Dimension of the features.
    num_components : int
        Components of the mixture.
    hidden : int
        Width of the network.

    Attributes
    ----------
    width : Tensor, shape ()
        Factor of all scales, see ``fit_width``.
    """

    def __init__(self, num_features: int = 32, num_components: int = 3, hidden: int = 320) -> None:
        super().__init__()
        self.num_features, self.num_components = num_features, num_components
        self.register_buffer("width", torch.tensor(1.0))
        self.net = nn.Sequential(
            nn.Linear(NUM_INPUTS, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, num_components * (2 * num_features + 1)),
        )

    def parameters_of(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of the mixture.

        Parameters
        ----------
        inputs : Tensor, shape (*batch, input)
            From ``describe``.

        Returns
        -------
        log_weight : Tensor, shape (*batch, component)
            Normalised.
        loc, scale : Tensor, shape (*batch, component, feature)
            Of the Gaussians.
        """
        raw = self.net(inputs).unflatten(-1, (self.num_components, 2 * self.num_features + 1))
        loc, scale, weight = raw.split((self.num_features, self.num_features, 1), -1)
        return weight[..., 0].log_softmax(-1), loc, self.width * (nn.functional.softplus(scale) + MIN_SCALE)

    def forward(self, inputs: Tensor) -> Distribution:
        """Return p(contrast | hypothesis, context).

        Parameters
        ----------
        inputs : Tensor, shape (*batch, input)
            From ``describe``.

        Returns
        -------
        Distribution, batch shape (*batch,), event shape (feature,)
            The density of the features.
        """
        log_weight, loc, scale = self.parameters_of(inputs)
        return MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(loc, scale), 1))


def mixture_slopes(log_weight: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Coefficients of the log density of every component in the squares of the features, the features and one.

    Parameters
    ----------
    log_weight : Tensor, shape (*batch, *hypothesis, component)
        From ``ContrastLikelihood.parameters_of``.
    loc, scale : Tensor, shape (*batch, *hypothesis, component, feature)
        Likewise.

    Returns
    -------
    Tensor, shape (*batch, *hypothesis, component, 2 feature + 1)
        For ``mixture_log_prob``.
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
        log weight + log N(features; loc, scale); the density is the logsumexp over components.

    Notes
    -----
    The square is expanded: features² . precision - 2 features . (precision loc) + constant. Features are of order one and
    scales at least 0.03, which keeps the cancellation in single precision below 0.01 nats.
    """
    lead = features.ndim - 2
    rows = torch.cat([features.square(), features, torch.ones_like(features[..., :1])], -1)
    return (rows @ slopes.flatten(lead, -2).mT).unflatten(-1, slopes.shape[lead:-1])


def log_sum_exp(values: Tensor) -> Tensor:
    """Logarithm of a sum of exponentials, as ``torch.logsumexp`` but without exponentials that underflow.

    Parameters
    ----------
    values : Tensor, shape (*batch, term)
        The largest of every sum is finite.

    Returns
    -------
    Tensor, shape (*batch,)
        What is 80 nats below the largest counts as 80 nats below it.
    """
    peak = values.detach().amax(-1, keepdim=True)
    return (values - peak).clamp(min=UNDERFLOW).exp().sum(-1).log() + peak[..., 0]


@functools.cache
def _hypothesis_table(device: torch.device) -> LookUp:
    """Columns of every hypothesis in every material, shape (host, dopant, hypothesis)."""
    columns = [columns_of(d, host, dopant)[v] for host in HOSTS for dopant in METALS for d, v in HYPOTHESES]
    return load_table().look_up(columns).reshape(len(HOSTS), len(METALS), len(HYPOTHESES)).to(device)


SITE_INPUTS = len(DEFECTS) + 1
NUM_INPUTS = SITE_INPUTS + 19  # three responses of its own, six of the material, ten conditions


def describe(host: Tensor, dopant: Tensor, context: Mapping[str, Tensor], hypotheses: Sequence[int] | None = None) -> Tensor:
    """Describe hypotheses by their physics: what the network sees in the place of names.

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
        The class, the response of the column relative to the host's columns at three spatial frequencies, and the
        conditions, all of order one.
    """
    chosen = torch.arange(len(HYPOTHESES)) if hypotheses is None else torch.tensor(hypotheses)
    energy, angle = context["beam_energy"], context["convergence_semiangle"]
    inner, outer = context["inner_collection_angle"], context["outer_collection_angle"]
    host, dopant = torch.broadcast_tensors(host, dopant)
    columns = _hypothesis_table(host.device)[host, dopant]
    strength = _responses(columns, energy, angle, inner, outer)  # (*batch, hypothesis, frequency)
    metal, chalcogen = strength[..., 0:1, :], strength[..., 5:6, :]
    unit = (metal + chalcogen)[..., :1]
    relative = (strength / unit)[..., chosen, :]
    material = torch.cat([metal / unit, chalcogen / unit], -1)[..., 0, :]
    lattice = torch.tensor([h.lattice_constant for h in HOSTS.values()]).to(energy)[host]
    cutoff = 2 * angle * 1e-3 / wavelength(energy)
    blur = context["defocus"] * (angle * 1e-3) ** 2 / wavelength(energy)
    values = [
        (lattice - 3.35) / 0.1,
        (energy / 100e3).log(),
        (angle - 28) / 6,
        (inner / 60).log() / 0.4,
        (outer / 170).log() / 0.4,
        cutoff - 1.5,
        blur,
        blur.square() - 1,
        # expected counts per unit cell
        (context["dose"] * unit[..., 0, 0]).log() / 2 - 3.5,
        (metal / chalcogen).log()[..., 0, 0],
    ]
    scalars = torch.stack(torch.broadcast_tensors(*values), -1)
    shared = torch.cat([material, scalars], -1)[..., None, :].expand(*relative.shape[:-1], -1)
    one_hot = nn.functional.one_hot(HYPOTHESIS_DEFECT[chosen], len(DEFECTS)).to(energy)
    second = torch.tensor([float(HYPOTHESES[i] == ("adatom_M", 1)) for i in chosen]).to(energy)[:, None]
    site = torch.cat([one_hot, second], -1).expand(*relative.shape[:-1], -1)
    own = torch.stack([(relative[..., 0] + 0.02).log() + 1, relative[..., 0] - 0.5, relative[..., 2] - 0.5], -1)
    return torch.cat([site, own, shared], -1)


def _responses(columns: LookUp, energy: Tensor, angle: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Response of columns to a uniform aperture at a few spatial frequencies, shape (*batch, column, frequency)."""
    coefficients = load_table().coefficients(columns, energy, inner, outer)
    frequency = torch.tensor(FREQUENCIES).to(energy)
    scale = wavelength(energy) / (2 * MAX_SEMIANGLE * 1e-3)
    polynomials = chebyshev(frequency * scale[..., None]).movedim(0, -1)
    values = torch.einsum("...cto,...fo->...cft", coefficients, polynomials)
    power = ((angle / MAX_SEMIANGLE) ** 2)[..., None, None]
    # means of p and p² over the aperture
    mean = values[..., 0] + power * values[..., 1] + power**2 / 3 * (values[..., 3] + 2 * values[..., 4])
    blur = torch.exp(-2 * math.pi**2 * columns.displacement.to(energy)[..., None] ** 2 * frequency**2)
    return mean.clamp(min=0) * blur
