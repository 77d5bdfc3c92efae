import numpy as np
import pytest
import torch
from samples import normal, quiet
from scipy.stats import chi2, poisson

from bayesctx.simulation.rendering import detect


def test_noise_is_poisson_at_the_dose():
    """Over many noise draws of one scene, counts have a variance equal to their mean."""
    clean = torch.full((1, 1, 100, 100), 0.02)
    exposure = torch.full((1, 1, 1, 1), 1500.0)
    axis = torch.zeros(1, 1, 100)
    counts = detect(clean, axis, axis, exposure, quiet(), normal(clean, 0))
    # 10 000 pixels of mean 30: standard errors 0.055 and 30 sqrt(2 / 10 000) = 0.42
    assert float(counts.mean()) == pytest.approx(30, abs=0.25)
    assert float(counts.var()) == pytest.approx(30, abs=2.0)


def test_expected_intensity_grows_with_the_dose_and_the_film():
    clean, axis = torch.full((1, 1, 50, 50), 0.02), torch.zeros(1, 1, 50)
    exposure = torch.full((1, 1, 1, 1), 1e6)
    filmed = detect(
        clean,
        axis,
        axis,
        exposure,
        quiet() | {"background": torch.tensor([0.3])},
        normal(clean, 0),
    )
    # mean 26 000 with relative standard error 1.2e-4
    assert float(filmed.mean()) == pytest.approx(1.3 * 0.02 * 1e6, rel=1e-3)


def test_counts_follow_the_poisson_distribution():
    """Chi-square test of the counts of 40 000 pixels of equal expected intensity."""
    mean, num = 8.0, 200
    axis = torch.zeros(1, 1, num)
    clean, exposure = torch.full((1, 1, num, num), 0.02), torch.full((1, 1, 1, 1), mean / 0.02)
    counts = detect(clean, axis, axis, exposure, quiet(), normal(clean, 1)).numpy().ravel()
    assert np.array_equal(counts, counts.round())
    edges = np.arange(1, 19)  # 18 and fewer than 1 pooled: at least 11 expected in every bin
    observed = np.bincount(counts.astype(int).clip(1, 18), minlength=19)[edges]
    probability = poisson.pmf(edges, mean)
    probability[0], probability[-1] = poisson.cdf(1, mean), poisson.sf(17, mean)
    statistic = ((observed - counts.size * probability) ** 2 / (counts.size * probability)).sum()
    # one in ten thousand on either side
    assert chi2.ppf(1e-4, len(edges) - 1) < statistic < chi2.ppf(1 - 1e-4, len(edges) - 1)
