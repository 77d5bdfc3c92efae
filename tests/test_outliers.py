import numpy as np
import pytest
import torch
from samples import digest, double_precision

from bayesctx import DefectModel, reference_prior
from bayesctx.defects import SPECIES
from bayesctx.simulation import OUTLIERS, draw_block, draw_outliers
from bayesctx.simulation.latents import draw_centres, draw_images, generators
from bayesctx.simulation.outliers import _join
from bayesctx.simulation.rendering import BOX
from bayesctx.simulation.scene import place_columns
from bayesctx.simulation.spectra import patch_spectra
from bayesctx.training import fit_outliers


@pytest.fixture
def small():
    return DefectModel(reference_prior(), num_features=6, num_components=2, hidden=16, width=32)


@pytest.mark.parametrize("kind", OUTLIERS)
def test_outliers_are_reproducible(kind):
    first, again, other = (draw_outliers(reference_prior(), 3, b, kind) for b in (0, 0, 1))
    assert first.shape == (16, 16, 32, 32)
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", OUTLIERS)
def test_default_dtype_does_not_matter(kind):
    prior = reference_prior()
    expected = digest(draw_outliers(prior, 3, 0, kind))
    with double_precision():
        assert digest(draw_outliers(prior, 3, 0, kind)) == expected


def test_unknown_kinds_are_refused():
    with pytest.raises(
        ValueError, match="a kind among bilayer, grain boundary, .* was expected, got 'trilayer'"
    ):
        draw_outliers(reference_prior(), 0, 0, "trilayer")


def correlation(pixels):
    """Correlation of neighbouring pixels in a row."""
    centred = pixels - pixels.mean((-2, -1), keepdim=True)
    return float((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean())


def test_vacuum_is_noise():
    prior = reference_prior().given({"dose": 1e5})
    assert (
        correlation(draw_outliers(prior, 0, 0, "vacuum"))
        < 0.1
        < correlation(draw_block(prior, 0, 0).intensity)
    )


def test_joined_scene_is_the_sum_of_both():
    rng = generators(0, 16, 0)
    image, nuisances = draw_images(rng[0], reference_prior(), 4)
    scenes = []
    for _ in range(2):
        _, species, own = draw_centres(rng[1], reference_prior(), 4, 3)
        scenes.append(place_columns(rng[2], image["host"], species, nuisances | own, BOX))
    spectra = torch.randn(
        4, len(SPECIES), 21, 11, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    first, second, both = (
        patch_spectra(spectra, s, cell=(BOX, BOX)) for s in (*scenes, _join(*scenes))
    )
    # sums of a hundred terms of order one in single precision
    assert torch.allclose(both, first + second, atol=1e-3)


def test_outliers_are_detected_at_the_stated_rate_of_false_alarms(small):
    """The first layer of an untrained model suffices to tell noise from a crystal."""
    learnt = (*small.encoder.parameters(), *small.likelihood.parameters())
    before = [p.clone() for p in learnt]
    found = fit_outliers(small, num_patches=512 * 40, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, learnt, strict=True))
    assert list(found.kind.values) == list(OUTLIERS)
    # by chance 0.5, with a standard error of 0.006 of the 4096 patches of each kind
    assert float(found.area.sel(kind="vacuum")) > 0.7
    with torch.no_grad():
        patches = [
            draw_block(small.prior, 5, b, patches_per_image=16).intensity.flatten(0, 1)
            for b in range(8)
        ]
        surprise = torch.cat([small.eval().encode(p)[1] for p in patches])
    share = float((surprise > small.card["surprise_limit"]).float().mean())
    # patches of an image share its dose and exceed the limit together: 128 independent images
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 / 128)


def test_model_without_an_outlier_head_has_no_surprise(small):
    features, surprise = small.eval().encode(torch.rand(3, 32, 32))
    assert surprise is None
    assert features.shape == (3, 6)
