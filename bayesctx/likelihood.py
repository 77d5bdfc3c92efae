"""The neural likelihood: the density of the contrast features of a patch, given the column in its centre and the context."""

from __future__ import annotations

import math

import torch
from pyro.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TorchDistribution as Distribution,
)
from torch import Tensor, nn

from .hypotheses import NUM_INPUTS

__all__ = ["ContrastLikelihood", "UNDERFLOW", "log_sum_exp", "mixture_log_prob", "mixture_slopes"]

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
        return (
            weight[..., 0].log_softmax(-1),
            loc,
            self.width * (nn.functional.softplus(scale) + MIN_SCALE),
        )

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
