"""Neural likelihood: density of the features of a patch given central column and context."""

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
