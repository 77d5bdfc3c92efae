"""Generalised Dirichlet distributions of the abundances: laws, limits and evidence."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from bayesctx.abundance import Abundance
from bayesctx.composition import DIRICHLET_ALPHA
from bayesctx.defects import DEFECTS, SITES
from bayesctx.evidence import check_shares, sticks_of
from bayesctx.prior import limit_prior

NUM = 40_000
KINDS = list(SITES)
X = KINDS.index("chalcogen")
EVIDENCE = {"V_X": 0.03, "O_X": (0.0, 0.1), "Y_X": dist.Beta(2.0, 60.0), "D_M": 0.01}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def under(shares):
    return Abundance.of(DIRICHLET_ALPHA, check_shares(shares))


def alpha_of_sites():
    rows = [[DIRICHLET_ALPHA[d] * (d in SITES[k]) for d in DEFECTS] for k in KINDS]
    return torch.tensor(rows, dtype=torch.float64)


def counts_of(**numbers):
    counts = torch.zeros(len(KINDS), len(DEFECTS), dtype=torch.float64)
    for name, number in numbers.items():
        kind = next(i for i, k in enumerate(KINDS) if name in SITES[k])
        counts[kind, DEFECTS.index(name)] = number
    return counts


COUNTS = counts_of(M=30, D_M=4, X2=80, V_X=7, O_X=3, Y_X=1, hollow=12)


def test_the_special_case_is_the_dirichlet_distribution():
    alpha = alpha_of_sites()
    found = Abundance.of(DIRICHLET_ALPHA)
    assert torch.allclose(found.mean, alpha / alpha.sum(-1, keepdim=True), rtol=1e-12)
    together = alpha + COUNTS
    expected = together / together.sum(-1, keepdim=True)
    assert torch.allclose(found.posterior(COUNTS).mean, expected, rtol=1e-12)
    for k in range(len(KINDS)):
        used = alpha[k] > 0
        law = torch.distributions.Dirichlet
        terms = torch.lgamma(together[k, used]) - torch.lgamma(alpha[k, used])
        norm = torch.lgamma(alpha[k].sum()) - torch.lgamma(together[k].sum())
        assert float(found.log_evidence(COUNTS)[k]) == pytest.approx(float(terms.sum() + norm))
        drawn = found.draw(COUNTS.expand(NUM, -1, -1), generator())[:, k, used]
        expected = law(together[k, used])
        error = expected.variance.sqrt() / math.sqrt(NUM)
        assert ((drawn.mean(0) - expected.mean).abs() < 5 * error).all()
        # the relative standard error of a variance, also of the skewed rare classes
        assert torch.allclose(drawn.var(0), expected.variance, rtol=0.15)


def test_draws_have_the_moments_of_the_evidence():
    drawn = under(EVIDENCE).draw(torch.zeros(NUM, len(KINDS), len(DEFECTS)), generator())
    assert torch.allclose(drawn.sum(-1), torch.ones(NUM, len(KINDS), dtype=torch.float64))
    assert (drawn >= 0).all()
    shares = {n: drawn[:, X, DEFECTS.index(n)] for n in SITES["chalcogen"]}
    assert torch.allclose(shares["V_X"], torch.tensor(0.03, dtype=torch.float64), atol=1e-12)
    for name, law in (("O_X", dist.Uniform(0.0, 0.1)), ("Y_X", dist.Beta(2.0, 60.0))):
        spread = float(law.variance) ** 0.5
        assert float(shares[name].mean()) == pytest.approx(float(law.mean), abs=spread * 0.03)
        assert float(shares[name].std()) == pytest.approx(spread, rel=0.03)
    # what is left is shared as under the prior
    rest = [n for n in SITES["chalcogen"] if n not in EVIDENCE]
    left = torch.stack([shares[n] for n in rest], -1)
    left = left / left.sum(-1, keepdim=True)
    law = torch.distributions.Dirichlet(torch.tensor([DIRICHLET_ALPHA[n] for n in rest]))
    assert ((left.mean(0) - law.mean).abs() < 5 * (law.variance / NUM).sqrt()).all()


def test_mean_and_evidence_are_those_of_draws():
    abundance = under(EVIDENCE)
    drawn = abundance.draw(torch.zeros(NUM, len(KINDS), len(DEFECTS)), generator(1))
    spread = drawn.std(0) / math.sqrt(NUM)
    assert ((drawn.mean(0) - abundance.mean).abs() <= 5 * spread + 1e-12).all()
    few = counts_of(M=3, D_M=1, X2=5, V_X=1, O_X=1, Y_X=1, hollow=4)
    weight = few.xlogy(drawn).sum(-1).exp()
    error = weight.std(0) / math.sqrt(NUM)
    assert ((weight.mean(0) - abundance.log_evidence(few).exp()).abs() <= 5 * error + 1e-12).all()
    # importance weights turn draws of the prior into draws given counts
    mean = (weight[..., None] * drawn).sum(0) / weight.sum(0)[:, None]
    size = weight.sum(0).square() / weight.square().sum(0)
    error = 5 * drawn.std(0) / size.sqrt()[:, None]
    assert ((mean - abundance.posterior(few).mean).abs() <= error + 1e-12).all()


def test_the_evidence_of_one_more_site_is_the_expected_share():
    abundance = under(EVIDENCE)
    expected = abundance.posterior(COUNTS).mean
    before = abundance.log_evidence(COUNTS)
    for k, kind in enumerate(KINDS):
        for i in map(DEFECTS.index, SITES[kind]):
            more = COUNTS.clone()
            more[k, i] += 1
            ratio = (abundance.log_evidence(more) - before)[k].exp()
            assert float(ratio) == pytest.approx(float(expected[k, i]), rel=1e-8, abs=1e-300)


def test_counts_are_exchangeable_and_update_one_after_the_other():
    abundance, half = under(EVIDENCE), COUNTS / 2
    twice = abundance.posterior(half).posterior(half)
    assert torch.allclose(twice.mean, abundance.posterior(COUNTS).mean, rtol=1e-12)
    steps = abundance.log_evidence(half) + abundance.posterior(half).log_evidence(half)
    assert torch.allclose(steps, abundance.log_evidence(COUNTS), rtol=1e-12)


def test_gradients_in_the_counts_are_exact():
    abundance = under(EVIDENCE | {"M_X": 0.0})
    possible = abundance.mean > 0

    def functions(values):
        counts = torch.zeros_like(COUNTS).masked_scatter(possible, values)
        return abundance.posterior(counts).mean, abundance.log_evidence(counts)

    values = (COUNTS[possible] + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(functions, (values,))


def test_batches_are_those_one_by_one():
    abundance = under(EVIDENCE)
    many = torch.stack([COUNTS, COUNTS / 3, torch.zeros_like(COUNTS)])
    together = abundance.posterior(many).mean
    for counts, found in zip(many, together, strict=True):
        assert torch.equal(abundance.posterior(counts).mean, found)


def test_a_narrow_distribution_tends_to_the_known_share():
    narrow = under({"V_X": dist.Normal(torch.tensor(0.03).double(), torch.tensor(1e-5).double())})
    known = under({"V_X": 0.03})
    assert torch.allclose(narrow.mean, known.mean, atol=1e-7)
    assert torch.allclose(narrow.posterior(COUNTS).mean, known.posterior(COUNTS).mean, atol=1e-5)
    i = DEFECTS.index("V_X")
    assert float(known.posterior(100 * COUNTS).mean[X, i]) == 0.03


def test_many_counts_overrule_soft_evidence_but_no_known_share():
    found = under(EVIDENCE).posterior(1e7 * COUNTS).mean[X]
    total = COUNTS[X].sum()
    assert float(found[DEFECTS.index("V_X")]) == pytest.approx(0.03)
    left = (total - COUNTS[X, DEFECTS.index("V_X")]) / (1 - 0.03)
    for name in ("O_X", "Y_X", "X2"):
        i = DEFECTS.index(name)
        assert float(found[i]) == pytest.approx(float(COUNTS[X, i] / left), rel=1e-4)


def test_excluded_classes_and_whole_shares():
    found = under({"hollow": 0.99, "adatom_M": 0.01 - 1e-12})
    assert float(found.mean[2, DEFECTS.index("hollow")]) == 0.99
    # an adatom has its share on both kinds of site
    assert found.mean[[0, 2], DEFECTS.index("adatom_M")].tolist() == pytest.approx([0.01, 0.01])
    found = under({"Y_X": 0.0, "D_M": 0.0, "M": 1.0})
    assert found.mean[0].tolist() == [float(d == "M") for d in DEFECTS]
    assert float(found.mean[X, DEFECTS.index("Y_X")]) == 0
    drawn = found.draw(COUNTS.expand(100, -1, -1), generator())
    assert (drawn[:, X, DEFECTS.index("Y_X")] == 0).all()
    assert float(found.log_evidence(counts_of(Y_X=1))[X]) == -math.inf
    assert float(found.log_evidence(counts_of(M=5))[0]) == 0


def beta(mean, deviation):
    strength = mean * (1 - mean) / deviation**2 - 1
    return dist.Beta(mean * strength, (1 - mean) * strength)


def test_means_are_kept_where_the_variance_cannot_be():
    """What two wide shares leave varies more than the third, which takes nearly all of it."""
    laws = {"O_X": (0.021, 0.141), "Y_X": (0.11, 0.147), "X2": (0.847, 0.169)}
    shares = check_shares({n: beta(*law) for n, law in laws.items()})
    last = sticks_of(shares, "chalcogen")[-1]
    assert (last.defect, last.strength) == ("X2", math.inf)
    mean = Abundance.of(DIRICHLET_ALPHA, shares).mean[X]
    assert float(mean.sum()) == pytest.approx(1)
    for name, (expected, _) in laws.items():
        assert float(mean[DEFECTS.index(name)]) == pytest.approx(expected, rel=0.02)


def test_tiny_parameters_draw_one_class():
    law = Abundance.dirichlet(torch.full((1, 13), 1e-5, dtype=torch.float64))
    drawn = law.draw(torch.zeros(2000, 1, 13), generator())
    assert torch.allclose(drawn.sum(-1), torch.ones(2000, 1, dtype=torch.float64))
    assert (drawn.amax(-1) > 0.999).double().mean() > 0.99
    assert ((drawn.mean(0) - 1 / 13).abs() < 5 * math.sqrt(12 / 13**2 / 2000)).all()


def test_a_prior_of_perfect_crystals_stays_perfect():
    prior = limit_prior()
    found = Abundance.of(prior.dirichlet_alpha)
    perfect = counts_of(M=3, X2=2, hollow=1)
    assert torch.equal(found.mean, (perfect > 0).double())
    assert torch.equal(found.posterior(perfect).mean, (perfect > 0).double())
    with pytest.raises(ValueError, match=r"no other class than X2, V_X there, they leave 0\.05"):
        Abundance.of(prior.dirichlet_alpha, check_shares({"X2": 0.9, "V_X": 0.05}))


def test_evidence_that_was_checked_does_not_change():
    with pytest.warns(UserWarning, match="2 % of the mass of Normal"):
        first = check_shares({"O_X": dist.Normal(0.02, 0.01), "V_X": np.float32(0.25), "M_X": 0})
    assert list(first) == ["V_X", "O_X", "M_X"]
    assert first["V_X"] == 0.25
    assert first["M_X"] == 0.0
    second = check_shares(first)
    assert {n: id(v) for n, v in second.items() if n == "O_X"} == {"O_X": id(first["O_X"])}
    assert check_shares({"V_X": 0.7, "O_X": (0.0, 1.0)})["O_X"].high == pytest.approx(0.3)
    assert [s.defect for s in sticks_of(first, "chalcogen")] == ["V_X", "M_X", "O_X"]
    assert sticks_of(first, "metal") == []


@pytest.mark.parametrize(("values", "error", "message"), [
    ([0.1], TypeError, r"abundance was expected as a mapping such as .* got \[0\.1\]"),
    (None, TypeError, "abundance was expected as a mapping such as .* got None"),
    ({"YX": 0}, ValueError, "unknown defect class in abundance 'YX'.*did you mean 'Y_X'"),
    ({3: 0}, ValueError, "unknown defect class in abundance 3"),
    ({"M": 0}, ValueError, "share above 0 was expected for M, the perfect metal site"),
    ({"hollow": 0.0}, ValueError, "share above 0 was expected for hollow, the perfect hollow"),
    ({"V_X": 3}, ValueError, "expected between 0 and 1, got 3; 3 % is 0.03"),
    ({"V_X": -0.1}, ValueError, r"abundance of V_X \[share\] was expected between 0 and 1"),
    ({"V_X": math.nan}, ValueError, "expected between 0 and 1, got NaN"),
    ({"V_X": None}, TypeError, "as a number, as .low, high. or as a distribution, got None"),
    ({"V_X": [0.1, 0.2]}, TypeError, r"or as a distribution, got \[0\.1, 0\.2\]"),
    ({"V_X": np.array([0.1, 0.2])}, TypeError, "as a number, as .low, high. or as a distribution"),
    ({"V_X": "few"}, TypeError, "got 'few'"),
    ({"V_X": (0.2, 0.1)}, ValueError, r"expected as \(low, high\), got \(0\.2, 0\.1\)"),
    ({"V_X": (0.1, 0.2, 0.3)}, TypeError, "got the tuple"),
    ({"V_X": dist.Normal(5.0, 0.1)}, ValueError, "to have mass between 0 and 1"),
    ({"V_X": dist.Normal(torch.zeros(2), 1.0)}, ValueError, "distribution of one number"),
    ({"V_X": dist.Bernoulli(0.5)}, ValueError, "with a density between 0 and 1"),
    ({"V_X": 0.6, "O_X": 0.5}, ValueError, r"at most 1.*V_X 0\.6, O_X 0\.5 \(mean 1\.1\)"),
    ({"V_X": 1.0, "O_X": (0.0, 0.1)}, ValueError, "have mass between 0 and 0"),
    ({"V_X": (0.3, 0.9), "O_X": (0.3, 0.9)}, ValueError, "add up to at most 1 were expected"),
    ({"hollow": 0.9, "adatom_M": 0.05}, ValueError, "add up to 1 were expected where all classes"),
])  # fmt: skip
def test_evidence_that_cannot_be(values, error, message):
    with pytest.raises(error, match=message):
        check_shares(values)


def test_the_log_density_is_that_of_the_dirichlet_distribution():
    alpha = alpha_of_sites()[X]
    held = alpha > 0
    law = torch.distributions.Dirichlet(alpha[held])
    torch.manual_seed(0)
    drawn = law.sample((20,))
    shares = torch.zeros(20, len(KINDS), len(DEFECTS), dtype=torch.float64)
    shares[:, X, held] = drawn
    found = Abundance.of(DIRICHLET_ALPHA).log_density(shares)[:, X]
    expected = law.log_prob(drawn)
    assert torch.allclose(found - found[0], expected - expected[0], atol=1e-9)


def test_the_log_density_is_that_of_the_fractions():
    """On one kind of site with evidence the density of two shares is checked by a sum."""
    law = under({"V_X": (0.0, 0.1)})
    place = law.order[X].tolist().index(DEFECTS.index("V_X"))
    mean, strength = law.fraction[X, place], law.strength[X, place]
    beta = torch.distributions.Beta(mean * strength, (1 - mean) * strength)
    v = torch.tensor([0.01, 0.04, 0.09], dtype=torch.float64)
    rest = law.mean[X].clone()
    rest[DEFECTS.index("V_X")] = 0
    rest = rest / rest.sum()
    shares = law.mean.repeat(3, 1, 1)
    shares[:, X] = (1 - v[:, None]) * rest
    shares[:, X, DEFECTS.index("V_X")] = v
    found = law.log_density(shares)[:, X]
    # others in proportion: K - 1 of them have K - 2 free shares, each over what V_X leaves
    free = int((rest > 0).sum())
    expected = beta.log_prob(v) - (free - 1) * torch.log1p(-v)
    assert torch.allclose(found - found[0], expected - expected[0], atol=1e-9)
