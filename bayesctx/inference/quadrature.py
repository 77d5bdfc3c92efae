"""Posterior of the abundances on one kind of site, by quadrature and by resampling."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv, betaln, gammaincinv, gammaln
from scipy.stats import qmc
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..abundance import Abundance
from .patches import BUDGET

__all__ = ["FLOOR", "NODES", "class_probabilities", "draw_abundances"]

FLOOR = 1e-6  # of the density of the best class; where no class explains a site the prior remains
NODES = 128  # of the quadrature over the abundances of each kind of site
COUNTS = 4.0  # independent sites of a kind that draws from the prior are weighed by
REPEATS = 2  # of the last step towards the posterior
WIDER, LEAST = 0.8, 0.1  # proposals are wider than the posterior, and have its tails
CORRECTIONS, CORRECTED = 100, 1e-5  # of the means of the nodes: most steps, and the error in nats
LOWEST, SMALLEST = 1e-9, 1e-300  # parameter and quantile of a Beta or Gamma distribution
# candidates for the abundances, of which those that are drawn are chosen by their weight
FEWEST, FOR_EACH, MOST = 64, 4, 2048


def class_probabilities(density: Tensor, prior: Abundance, power: float) -> Tensor:
    """Class probabilities of sites of one kind, which share unknown abundances.

    Parameters
    ----------
    density : Tensor, shape (*batch, patch, class)
        Of the contrast of every site under every class, relative to that of the best class.
    prior : Abundance, shape (class,)
        Of these classes, in their order; every one has a share above 0.
    power : float
        Power of the likelihood of a site in the posterior of the abundances.

    Returns
    -------
    Tensor, shape (*batch, patch, class)
        They add up to one.

    Notes
    -----
    The posterior of the abundances a is p(a) prod_i (sum_k a_k density_ik)^power. The nodes of the
    quadrature are quasi-random draws with corrected means. Where the sites weigh more than
    ``COUNTS`` independent ones they are draws of the fractions of ``Abundance`` from Beta
    distributions near the posterior; a Dirichlet distribution has too few parameters for it.
    Otherwise they are draws from the prior, and those last classes whose prior is a Dirichlet
    distribution follow from Gamma variables: the ratio of two of them then depends on two variables
    only, which makes the error ten times smaller.
    """
    own, near = _distributions(density, prior, power)
    logs = _prior_nodes(*_key(own)) if near is own else _nodes(near)
    nodes = _shares(logs, own)
    mixed = _mixed(density, nodes)
    log_weight = power * _log_product(mixed) + _log_ratio(logs, own, near).float()
    weighted = log_weight.softmax(-1)[..., None] * nodes
    return (density + FLOOR) * (mixed.reciprocal_() @ weighted)


def draw_abundances(
    density: Tensor, prior: Abundance, power: float, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw abundances of one kind of site given the density of the sites.

    Parameters
    ----------
    density : Tensor, shape (patch, class)
        See ``class_probabilities``, also for the distribution.
    prior : Abundance, shape (class,)
        Of these classes.
    power : float
        Power of the likelihood of a site.
    num : int
        Number of draws.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray, shape (draw, class)
        Shares.

    Notes
    -----
    They are chosen by their weights among more draws from a distribution near the posterior
    (sampling, importance resampling).

    References
    ----------
    Rubin, Bayesian Statistics 3 (1988).
    """
    own, near = _distributions(density, prior, power)
    num_tried = min(max(FEWEST, FOR_EACH * num), MOST)
    logs = _draw(near, num_tried, rng)
    tried = _shares(logs, own)
    parts = density.split(max(1, BUDGET // num_tried))
    log_likelihood = power * sum(_log_product(_mixed(p, tried)).double() for p in parts)
    weight = (log_likelihood + _log_ratio(logs, own, near)).softmax(0).numpy()
    return tried.numpy()[rng.choice(num_tried, num, p=weight)]


@dataclass(frozen=True, eq=False)
class _Family:
    """Fractions of the first classes, some of them known, and a Dirichlet distribution of the rest.

    The log density is linear in the parameters: their product with log v, log(1 - v) and log b of
    the free fractions v and of the shares b of the rest.
    """

    known: Tensor  # (stick,) logits of the known fractions, NaN of the free ones
    parameters: Tensor  # (*batch, parameter) of the Beta distributions, first and second; Dirichlet

    @property
    def num_free(self) -> int:
        """Number of free fractions."""
        return int(self.known.isnan().sum())

    def split(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values of the three kinds of parameters."""
        n = self.num_free
        return values[..., :n], values[..., n : 2 * n], values[..., 2 * n :]


def _distributions(density: Tensor, prior: Abundance, power: float) -> tuple[_Family, _Family]:
    """The prior of the abundances, and one near their posterior, shape (*batch) or the same."""
    if power * density.shape[-2] <= COUNTS:
        own = _family(prior, _start_of_rest(prior))
        return own, own
    own = _family(prior, len(prior.fraction) - 1)
    return own, _proposal(density, own, power)


def _family(prior: Abundance, start: int) -> _Family:
    """The prior, with a Dirichlet distribution of the classes from one on."""
    fraction, strength = prior.fraction[:-1], prior.strength[:-1]
    first, second = ((f * strength).clamp(min=LOWEST) for f in (fraction, 1 - fraction))
    used = strength[:start].isfinite()
    # the last class alone takes what is left
    rest = torch.cat([first[start:], second[-1:]]) if start < len(fraction) else first.new_ones(1)
    known = fraction[:start].logit().masked_fill(used, torch.nan)
    return _Family(known, torch.cat([first[:start][used], second[:start][used], rest]))


def _start_of_rest(prior: Abundance) -> int:
    """Position of the first of the last classes that have a Dirichlet distribution."""
    fraction, strength = prior.fraction[:-1], prior.strength[:-1]
    num = start = len(fraction)
    follows = torch.isclose(((1 - fraction) * strength)[:-1], strength[1:], rtol=1e-9)
    while start > 0 and strength[start - 1].isfinite() and (start == num or follows[start - 1]):
        start -= 1
    # of two classes the fraction itself, which is one variable instead of two
    return start if start < num - 1 else num


def _shares(logs: Tensor, family: _Family) -> Tensor:
    """Shares from the logarithms of a node, (..., class), in single precision."""
    taken, left, rest = family.split(logs)
    free, shape = family.known.isnan(), (*logs.shape[:-1], len(family.known))
    log_taken, log_left = (logsigmoid(s * family.known).expand(shape).clone() for s in (1, -1))
    log_taken[..., free], log_left[..., free] = taken, left
    before = torch.cat([logs.new_zeros(*shape[:-1], 1), log_left.cumsum(-1)], -1)
    return torch.cat([log_taken + before[..., :-1], rest + before[..., -1:]], -1).exp_().float()


def _log_ratio(logs: Tensor, own: _Family, near: _Family) -> Tensor:
    """Log density under one distribution over that under another one, shape (..., node)."""
    return (logs * (own.parameters - near.parameters)[..., None, :]).sum(-1)


def _proposal(density: Tensor, own: _Family, power: float) -> _Family:
    """Distributions near the posterior of the abundances, shape (*batch)."""
    num, near = density.shape[-2], own
    # the posteriors of twice as many counts overlap, so that nodes of one describe the next
    doublings = math.ceil(math.log2(power * num / COUNTS))
    for step in range(doublings + REPEATS):
        logs, reached = _nodes(near), min(COUNTS / num * 2**step, power)
        log_weight = reached * _log_product(_mixed(density, _shares(logs, own)))
        near = _fitted(logs, (log_weight + _log_ratio(logs, own, near)).softmax(-1), own, num)
    return near


def _fitted(logs: Tensor, weight: Tensor, own: _Family, num: int) -> _Family:
    """Distribution of the moments of weighted nodes, widened."""
    values, weight = logs.exp(), weight[..., None]
    mean = (weight * values).sum(-2)
    square = (weight * (values - mean[..., None, :]).square()).sum(-2)
    (taken, left, _), (spread, _, _) = own.split(mean), own.split(square)
    first, second, rest = own.split(own.parameters)
    least = first + second
    total = WIDER * (taken * left / (spread + SMALLEST) - 1).clamp(LEAST * least, least + num)
    found = torch.cat([total * taken, total * left], -1)
    found = found.maximum(LEAST * torch.cat([first, second]))
    return _Family(own.known, torch.cat([found, rest.expand(*found.shape[:-1], -1)], -1))


def _key(family: _Family) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numbers that the nodes follow from."""
    return tuple(family.known.nan_to_num(torch.inf).tolist()), tuple(family.parameters.tolist())


@functools.lru_cache(maxsize=16)
def _prior_nodes(known: tuple[float, ...], parameters: tuple[float, ...]) -> Tensor:
    """Nodes for one prior, shape (node, parameter), that must not be changed."""
    known, parameters = (torch.tensor(v, dtype=torch.float64) for v in (known, parameters))
    return _nodes(_Family(known.masked_fill(known.isinf(), torch.nan), parameters))


def _nodes(family: _Family) -> Tensor:
    """Nodes of a quadrature, by their logarithms, shape (*batch, node, parameter)."""
    first, second, alpha = (p.numpy()[..., None, :] for p in family.split(family.parameters))
    num_free, num_rest = first.shape[-1], alpha.shape[-1]
    u = qmc.Sobol(num_free + num_rest, scramble=False).random(NODES) + 0.5 / NODES
    logits = torch.from_numpy(_logit_quantile(first, second, u[:, :num_free]))
    rest = torch.from_numpy(_log_quantile(alpha, u[:, num_free:])).softmax(-1)
    log_left = logits.new_zeros(logits.shape[:-1])
    for i in range(num_free):
        odds = torch.from_numpy(first[..., i] / second[..., i])
        _correct_mean(logits[..., i], log_left, odds.log())
        log_left = log_left + logsigmoid(-logits[..., i])
    mean, weight = torch.from_numpy(alpha / alpha.sum(-1, keepdims=True)), log_left.softmax(-1)
    for _ in range(CORRECTIONS):
        rest *= mean / (weight[..., None] * rest).sum(-2, keepdim=True).clamp(min=SMALLEST)
        rest /= rest.sum(-1, keepdim=True)
    return torch.cat([logsigmoid(logits), logsigmoid(-logits), rest.clamp(min=SMALLEST).log()], -1)


def _correct_mean(logits: Tensor, log_left: Tensor, log_odds: Tensor) -> None:
    """Shift logits, in place, until their fractions take their mean part of what is left."""
    log_left = log_left.log_softmax(-1)
    for _ in range(CORRECTIONS):
        taken, left = ((log_left + logsigmoid(s)).logsumexp(-1) for s in (logits, -logits))
        # a step is never too long: the mean varies less than the fraction of one node
        step = log_odds - (taken - left)[..., None]
        logits += step
        if float(step.abs().max()) < CORRECTED:
            break


def _logit_quantile(first: np.ndarray, second: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Logits of quantiles of Beta distributions."""
    first, second, u = np.broadcast_arrays(first, second, u)
    taken = betaincinv(first, second, u)
    left, is_large = 1 - taken, taken > 0.5
    left[is_large] = betaincinv(second[is_large], first[is_large], 1 - u[is_large])
    scale = betaln(first, second)
    small = (np.log(u) + np.log(first) + scale) / first
    small_left = (np.log1p(-u) + np.log(second) + scale) / second
    return _log(taken, small) - _log(left, small_left)


def _log_quantile(shape: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Logs of quantiles of Gamma distributions."""
    return _log(gammaincinv(shape, u), (np.log(u) + gammaln(shape + 1)) / shape)


def _log(value: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Log of quantiles, or the given one where they underflow, as with small parameters."""
    return np.where(value > SMALLEST, np.log(np.maximum(value, SMALLEST)), small)


def _draw(family: _Family, num: int, rng: np.random.Generator) -> Tensor:
    """Draws by their logarithms, shape (num, parameter)."""
    shape = family.parameters.numpy()
    # logs of Gamma variables of any parameter (Marsaglia and Tsang, ACM Trans. Math. Softw. 26,
    # 363, 2000)
    gamma = np.log(rng.standard_gamma(shape + 1, (num, len(shape))))
    gamma += np.log1p(-rng.random(gamma.shape)) / shape
    first, second, rest = family.split(torch.from_numpy(gamma))
    logits = first - second
    return torch.cat([logsigmoid(logits), logsigmoid(-logits), rest.log_softmax(-1)], -1)


def _mixed(density: Tensor, abundance: Tensor) -> Tensor:
    """Density of sites under abundances, shape (..., patch, node)."""
    # the floor is added here, since the abundances sum to one
    return (density @ abundance.mT).add_(FLOOR)


def _log_product(mixed: Tensor) -> Tensor:
    """Log of the product over sites, shape (..., node)."""
    # one logarithm for four sites: their product does not underflow, each is above the floor
    count = mixed.shape[-2] // 4
    one, two, three, four = mixed[..., : 4 * count, :].unflatten(-2, (4, count)).unbind(-3)
    total = (one * two).mul_(three).mul_(four).log_().sum(-2)
    return total + mixed[..., 4 * count :, :].log().sum(-2)
