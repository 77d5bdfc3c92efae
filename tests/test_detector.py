import numpy as np
import pytest
import torch
from scipy.stats import poisson

from bayesctx.simulation.rendering import EXACT_RATE, poisson_counts


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 3.9, EXACT_RATE, 5.0, 8.0, 30.0, 1000.0])
def test_counts_are_poisson(mean):
    """Distribution of the counts over two million quantiles of the normal variable."""
    probability = (torch.arange(2_000_000, dtype=torch.float64) + 0.5) / 2_000_000
    counts = poisson_counts(
        torch.full_like(probability, mean), torch.special.ndtri(probability)
    ).numpy()
    value, number = np.unique(counts, return_counts=True)
    assert (value == value.round()).all()
    assert value.min() >= 0
    share, law = number / len(probability), poisson.pmf(value, mean)
    distance = (np.abs(share - law).sum() + 1 - law.sum()) / 2
    # two million quantiles resolve each count to 5e-7
    assert distance < (8e-4 if mean >= EXACT_RATE else 1e-6 * len(value) + 2e-6)
    assert counts.mean() == pytest.approx(mean, abs=8e-4)
    assert counts.var() == pytest.approx(mean, rel=1e-3)


def test_counts_do_not_depend_on_their_neighbours():
    """A mean on either side of the threshold, alone and together with others."""
    rate, normal = (
        torch.tensor([0.0, 0.5, 3.9, 4.0, 4.1, 50.0]),
        torch.tensor([3.0, 1.0, -0.5, 0.2, 2.5, -3.0]),
    )
    together = poisson_counts(rate, normal)
    assert torch.equal(
        together,
        torch.cat([poisson_counts(r[None], n[None]) for r, n in zip(rate, normal, strict=True)]),
    )
    assert together[0] == 0


def test_counts_at_extreme_quantiles():
    extreme = torch.tensor([-6.0, 6.0]).repeat(4)
    rate = torch.tensor([0.0, 1e-3, 3.99, 4.0]).repeat_interleave(2)
    counts = poisson_counts(rate, extreme)
    # scipy.stats.poisson.ppf at 5 standard deviations; the last two by the expansion at 6
    assert counts.tolist() == [0, 0, 0, 2, 0, 17, 1, 22]
