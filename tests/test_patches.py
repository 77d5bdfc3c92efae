"""Posterior of single patches: sums over draws of the context, refined where few do not do."""

import numpy as np
import pytest
import torch

from bayesctx import infer, load_model, reference_prior, simulate
from bayesctx.defects import DEFECTS
from bayesctx.inference import patches as module
from bayesctx.inference.cases import group_images
from bayesctx.inference.patches import TOLERANCE, plan_draws, solve_patches
from bayesctx.inference.refinement import fold_model
from bayesctx.model import SitePrior, outcome_classes

NUM_PATCHES = 12


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def images():
    return simulate(reference_prior(), NUM_PATCHES, seed=8)["intensity"]


@pytest.fixture(scope="module")
def features(images, model):
    with torch.no_grad():
        pixels = torch.from_numpy(images.values).float().flatten(1)
        return model.encode(pixels.view(len(images), *images.shape[-2:]))[0]


@torch.no_grad()
def solve(model, features, known, seed=0, num_draws=1000):
    plan = plan_draws(model, num_draws)
    cases = list(group_images(model.prior, known, len(features), plan[-1], seed))
    ((case, found),) = solve_patches(cases, features, model, plan, num_draws=num_draws, seed=seed)
    return case, found


def class_probabilities(images, context=None, **options):
    found = infer(images, context or {}, **options)["class_posterior"].defect.values
    return found.reshape(-1, len(DEFECTS))


@torch.no_grad()
def brute_force(model, features, known, num_draws=2**14):
    """Class probabilities under all draws, and their standard errors, by the unfolded network."""
    (case,) = group_images(model.prior, known, len(features), num_draws, 99)
    classes = outcome_classes(case.materials.dopant.shape[-1])
    prior = SitePrior.of_patches(model.prior, 1).mean[0]
    weight = prior[classes].repeat(*case.materials.host.shape, 1)
    weight[..., -case.materials.dopant.shape[-1] :] *= case.materials.dopant_weight
    weight = (weight * case.materials.host_weight[..., None])[0]
    parts = []
    for at in torch.arange(num_draws).split(512):
        table = model.tabulate({n: v[:, at] for n, v in case.context.items()}, case.materials)
        terms = table.log_prob(features[None])[0] + weight.log()
        terms = terms.logsumexp(2)  # (patch, draw, outcome)
        groups = [terms[..., classes == c].logsumexp(-1) for c in range(len(DEFECTS))]
        parts.append(torch.stack(groups, -1))
    mass = torch.cat(parts, 1).double()
    mass = (mass - mass.amax((1, 2), keepdim=True)).exp()
    mass = mass / mass.sum((1, 2), keepdim=True)
    mean = mass.sum(1)
    influence = mass - mean[:, None] * mass.sum(2, keepdim=True)
    return mean.numpy(), influence.square().sum(1).sqrt().numpy()


def test_refined_posteriors_agree_with_a_sum_over_many_draws(model, features):
    # four standard errors: of the sum, of what is settled, of the terms that are left, and a floor
    # for the folded network
    known = {"host": "MoS2"}
    expected, error = brute_force(model, features[:6], known)
    _, found = solve(model, features[:6], known)
    own = np.hypot(TOLERANCE, module.REST * TOLERANCE)
    assert (np.abs(found.defect.numpy() - expected) < 4 * np.hypot(error, own) + 0.01).all()


def test_a_folded_network_keeps_the_density(model, features):
    # units are folded where they add less than 0.01 to an output; the class probabilities of a
    # draw change by less than the error that counts as settled
    (case,) = group_images(model.prior, {}, NUM_PATCHES, 128, 3)
    with torch.no_grad():
        tables = [
            m.tabulate(case.context, case.materials) for m in (model, fold_model(model, case))
        ]
        probabilities = [t.log_prob(features[None])[0].flatten(2).softmax(-1) for t in tables]
    changes = (probabilities[0] - probabilities[1]).abs().sum(-1) / 2
    assert changes.mean() < TOLERANCE


def test_two_seeds_agree(images):
    # the standard error of each is at most 0.007 where 8192 draws settle the patch
    first, second = (class_probabilities(images, seed=s) for s in (0, 1))
    changes = np.abs(first - second).max(1)
    assert np.quantile(changes, 0.75) < 3 * 2**0.5 * TOLERANCE
    assert np.median(changes) < 2**0.5 * TOLERANCE


def test_few_draws_are_refined_only_where_they_do_not_settle(model, features):
    _, found = solve(model, features, {})
    most = found.draw.amax(1)
    assert (most < 128).any()
    assert (most >= 1024).any()


@pytest.mark.parametrize("context", [{}, {"host": "MoS2"}, {"host": "MoS2", "dopant": "W"}])
def test_posteriors_are_normalised(images, context):
    result = infer(images, context, num_draws=300)
    for values in result["class_posterior"].data_vars.values():
        np.testing.assert_allclose(values.values.sum(-1), 1, atol=1e-5)
    assert np.isfinite(result["log_likelihood"].to_dataset().to_array()).all()
    assert (result["sample_stats"].ess >= 1).all()


def test_draws_follow_the_class_probabilities(model, features):
    # systematic resampling: frequencies are within one draw per term of the probabilities
    _, found = solve(model, features, {"host": "MoS2"}, num_draws=4000)
    classes = outcome_classes(found.material.shape[-1])[found.outcome]
    frequency = torch.nn.functional.one_hot(classes, len(DEFECTS)).float().mean(1)
    assert (frequency - found.defect).abs().max() <= found.material.shape[-1] / 4000 + 1e-5


def test_patches_do_not_depend_on_their_company(images):
    together = class_probabilities(images)
    reverse = class_probabilities(images[::-1])[::-1]
    alone = np.concatenate([class_probabilities(images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(reverse, together, atol=1e-4)
    np.testing.assert_allclose(alone, together[:4], atol=1e-4)


def test_an_open_host_is_a_mixture_over_given_hosts(images):
    # P(class) = sum over hosts of P(host) P(class | host); both are settled to 0.007
    hosts = ["MoS2", "WSe2"]
    result = infer(images, {"host": hosts})["class_posterior"]
    mixture = sum(
        result.host.sel(host_class=h).values.reshape(-1, 1)
        * class_probabilities(images, {"host": h})
        for h in hosts
    )
    changes = np.abs(result.defect.values.reshape(-1, len(DEFECTS)) - mixture).max(1)
    assert np.quantile(changes, 0.75) < 3 * 2**0.5 * TOLERANCE


@pytest.mark.filterwarnings("ignore:the posterior rests on")
def test_contexts_of_their_own_are_refined_as_well(images):
    # more than 64 values of two variables: every image has draws of its own
    number = 66
    dose, angle = np.geomspace(1e4, 9e5, number), np.linspace(25.0, 30.0, number)
    context = {"host": "MoS2", "dose": dose, "convergence_semiangle": angle}
    many = images[np.arange(number) % NUM_PATCHES].drop_vars("image", errors="ignore")
    together = class_probabilities(many, context)
    changes = []
    for i in range(0, number, 22):
        own = {n: v if n == "host" else float(v[i]) for n, v in context.items()}
        changes.append(np.abs(together[i] - class_probabilities(many[i : i + 1], own)[0]).max())
    assert np.quantile(changes, 0.75) < 3 * 2**0.5 * TOLERANCE
