import pytest
import torch
from samples import digest, double_precision

from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import HYPOTHESES
from bayesctx.likelihood import (
    NUM_INPUTS,
    ContrastLikelihood,
    describe,
    log_sum_exp,
    mixture_log_prob,
    mixture_slopes,
)
from bayesctx.prior import CONTINUOUS, MAX_TRIES, reference_prior


def conditions(num, seed=0):
    u = torch.rand(num, MAX_TRIES, 7, generator=torch.Generator().manual_seed(seed))
    return reference_prior().first_possible(u)


@pytest.fixture
def likelihood():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ContrastLikelihood(num_features=5, num_components=3, hidden=16)


def test_density_is_normalised(likelihood):
    """The mixture integrates to one: importance sampling from a wide Gaussian."""
    inputs = describe(torch.tensor([0]), torch.tensor([9]), conditions(1))[0]
    density = likelihood(inputs[:3])
    wide = torch.distributions.Normal(torch.zeros(5), 2.5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = wide.sample((20_000,))
    ratio = (density.log_prob(x[:, None]) - wide.log_prob(x).sum(-1)[:, None]).exp()
    error = ratio.std(0) / 20_000**0.5
    assert bool(((ratio.mean(0) - 1).abs() < 5 * error).all())


def test_matrix_product_is_the_mixture(likelihood):
    inputs = describe(torch.arange(4), torch.arange(4), conditions(4))
    features = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(2))
    fast = mixture_log_prob(features, mixture_slopes(*likelihood.parameters_of(inputs))).logsumexp(
        -1
    )
    slow = likelihood(inputs[:, None]).log_prob(features[:, :, None])
    assert fast.shape == (4, 7, len(HYPOTHESES))
    # square expanded in single precision, scales above 0.03
    assert torch.allclose(fast, slow, atol=1e-4)


def test_hypotheses_are_described_by_their_physics():
    context = conditions(50)
    inputs = describe(
        torch.arange(len(HOSTS)), torch.tensor(0), {n: v[:, None] for n, v in context.items()}
    )
    assert inputs.shape == (50, len(HOSTS), len(HYPOTHESES), NUM_INPUTS)
    assert bool(torch.isfinite(inputs).all())
    # of order one: the network starts from numbers of one size
    assert float(inputs.abs().max()) < 20
    each = describe(torch.arange(12).expand(50, 12), torch.zeros(50, 12, dtype=torch.long),
                    {n: v[:, None].expand(50, 12) for n, v in context.items()})  # fmt: skip
    # a few columns of a condition are looked up in another way than many
    assert torch.allclose(inputs, each, atol=1e-5)


def test_only_the_dopant_class_depends_on_the_dopant():
    context = {n: v[:, None] for n, v in conditions(5).items()}
    dopants = torch.tensor([METALS.index("Ti"), METALS.index("Re")])
    inputs = describe(torch.tensor(0), dopants, context)
    same = (inputs[:, 0] == inputs[:, 1]).all(-1).all(0)
    assert [HYPOTHESES[i].defect for i in (~same).nonzero()[:, 0].tolist()] == ["D_M"]


def test_heavier_dopants_scatter_more():
    context = {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (80e3, 25.0, 80.0, 250.0, 0.0, 1e5), strict=True)
    }
    order = torch.tensor([METALS.index(m) for m in ("Ti", "Fe", "Nb", "Re")])
    strength = describe(torch.tensor(0), order, {n: v[:, None] for n, v in context.items()}, [1])[
        0, :, 0, 14
    ]
    assert bool((strength.diff() > 0.1).all())


def test_sums_of_exponentials_are_those_of_torch():
    """Value and gradient, with terms that underflow and some that cannot be."""
    values = (
        torch.randn(7, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100
    )
    values[:, 3] = -torch.inf
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    total, expected = log_sum_exp(ours), theirs.logsumexp(-1)
    assert torch.allclose(total, expected, atol=1e-12)
    for result in (total, expected):
        result.sum().backward()
    # what is 80 nats below the largest weighs 1e-35
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


def test_default_dtype_does_not_matter():
    def parameters():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            likelihood = ContrastLikelihood(5, 3, 16)
        inputs = torch.ones(2, NUM_INPUTS, dtype=torch.float32)
        return digest(*(v.detach() for v in likelihood.parameters_of(inputs)))

    expected = parameters()
    with double_precision():
        assert parameters() == expected
