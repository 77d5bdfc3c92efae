"""What of a micrograph is left out of the posterior, and that it is said."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from drawing import draw_image

import bayesctx as bc
from bayesctx.defects import DEFECTS
from bayesctx.inference import whole_image
from bayesctx.inference.conflict import warn_of_conflict
from bayesctx.inference.placement import cut_patches, place_sites
from bayesctx.micrograph import standardize

CONTEXT = {"host": "WSe2"}
GROUPS = ("posterior", "class_posterior", "log_likelihood", "prior", "sample_stats")


@pytest.fixture(scope="module")
def image():
    known = CONTEXT | {"dopant": "Ti", "dose": 1e5, "beam_energy": 80e3}
    prior = bc.reference_prior().given(known)
    return bc.simulate_micrograph(prior, seed=1, num_pixels=160, sampling=0.22).intensity.values


def infer(values, model, **options):
    """Inference of an untrained model, whose few effective draws are not the point."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the posterior rests on", UserWarning)
        return bc.infer(values, CONTEXT, model, num_draws=16, likelihood="network", **options)


def place(values):
    return place_sites(values[None], np.isfinite(values))[0]


def vacuum_beside(image, edge=100):
    dark = 0.5 * np.percentile(image, 1)
    values = image.copy()
    values[:, edge:] = np.random.default_rng(0).poisson(dark, values[:, edge:].shape)
    return values


def test_vacuum_is_flagged_and_named(image):
    with pytest.warns(UserWarning, match=r"got none at \d+ of \d+, in \d+ px² around y = .*, x = "):
        result = infer(vacuum_beside(image), bc.load_model())
    constants, classes = result["constant_data"], result["class_posterior"].defect
    crystal = constants.crystal.values.astype(bool)
    # half a cell of 15 px on either side of the edge is not told
    assert not crystal[constants.site_x > 108].any()
    assert crystal[constants.site_x < 92].all()
    assert np.allclose(classes.sum("defect_class"), 1, atol=1e-5)
    # any of three kinds of site
    assert classes.values[~crystal].max() < 0.4
    assert (classes.values[~crystal] == classes.values[~crystal][0]).all()
    surprise = result["sample_stats"].surprise.values
    assert (surprise[~crystal] == 0).all()
    assert (surprise[crystal] != 0).all()
    assert (result["log_likelihood"].contrast.values[..., ~crystal] == 0).all()
    drawn = result["posterior"].defect.values[..., ~crystal]
    share = np.bincount(drawn.ravel(), minlength=len(DEFECTS)) / drawn.size
    assert np.abs(share - classes.values[~crystal][0]).max() < 5 * np.sqrt(0.25 / drawn.size)


def test_sites_without_crystal_are_no_evidence(image, untrained, monkeypatch):
    """The others have the posterior that they have if those sites are not there at all."""
    placement = place(image)
    crystal = np.random.default_rng(0).random(len(placement.positions)) < 0.7
    flagged = dataclasses.replace(placement, crystal=crystal)
    alone = dataclasses.replace(
        placement,
        positions=placement.positions[crystal],
        sublattice=placement.sublattice[crystal],
        crystal=np.ones(crystal.sum(), bool),
    )
    results = []
    for found in (flagged, alone):
        monkeypatch.setattr(whole_image, "place_sites", lambda *_, found=found: [found])
        results.append(infer(image, untrained))
    for name in ("posterior", "class_posterior", "log_likelihood", "prior"):
        first, second = (r[name].to_dataset() for r in results)
        if "patch" in first.dims:
            first = first.isel(patch=crystal)
        xr.testing.assert_identical(first, second)
    assert results[0]["sample_stats"].ess == results[1]["sample_stats"].ess


def test_patches_beside_vacuum_are_those_of_the_crystal(image):
    """Within a cell of the edge they are hardly told from those of the whole image."""
    whole = place(image)
    with pytest.warns(UserWarning, match="crystal at every site was expected"):
        cut = place(vacuum_beside(image))
    assert np.isnan(cut.image[:, 110:]).all()
    assert np.isfinite(cut.image[:, :90]).all()
    apart = np.linalg.norm(cut.positions[:, None] - whole.positions, axis=-1)
    edge = (cut.positions[:, 1] > 85) & (cut.positions[:, 1] < 97) & (apart.min(1) < 1)
    edge &= cut.crystal
    assert edge.sum() > 20

    def patches(placement, sites):
        chosen = dataclasses.replace(
            placement, positions=placement.positions[sites], crystal=np.ones(len(sites), bool)
        )
        return torch.cat(list(cut_patches(chosen, 0.22, bc.reference_prior()))).flatten(1)

    sites = np.flatnonzero(edge)
    expected = patches(whole, apart.argmin(1)[sites])
    as_it_came = dataclasses.replace(cut, image=standardize(vacuum_beside(image)))
    completed, cropped = (
        np.median(
            [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p, expected, strict=True)]
        )
        for p in (patches(cut, sites), patches(as_it_came, sites))
    )
    # the noise is another
    assert completed > 0.8
    assert cropped < 0.6


@pytest.mark.parametrize("content", [0.0, 1e30, -np.inf, "crystal"])
def test_what_lies_under_a_mask_changes_nothing_at_all(content, image, untrained):
    """In no group, bit for bit: a corner, a bar and single pixels."""
    mask = np.zeros(image.shape, bool)
    mask[:40, :50] = mask[100:108, 60:120] = mask[::23, ::31] = True
    other = image[::-1] if content == "crystal" else content
    first = infer(np.ma.masked_array(image, mask), untrained)
    second = infer(np.ma.masked_array(np.where(mask, other, image), mask), untrained)
    for name in GROUPS:
        xr.testing.assert_identical(first[name].to_dataset(), second[name].to_dataset())


def test_only_sites_on_masked_pixels_are_left_out(image):
    whole = place(image).positions
    valid = np.ones(image.shape, bool)
    valid[60:100, 40:90] = valid[::23, ::31] = False
    found = place(np.where(valid, image, np.nan))
    assert found.crystal.all()
    depth = np.minimum.reduce(
        [whole[:, 0] - 60, 99 - whole[:, 0], whole[:, 1] - 40, 89 - whole[:, 1]]
    )
    apart = np.linalg.norm(whole[:, None] - found.positions, axis=-1).min(1)
    # a column has a standard deviation of 2.7 px
    assert (apart[depth > 1.5] > 4).all()
    assert (apart[depth < -3] < 1).all()


def spoil(name, image):
    values = image.copy()
    if name == "hot pixels":
        values[50:150:30, 40] = 20 * image.max()
    elif name == "scale bar":
        values[140:145, 10:50] = image.max()
    else:
        values[:, 140:] = 0
    return values


@pytest.mark.parametrize("name", ["hot pixels", "scale bar", "padding"])
def test_pixels_that_are_no_measurement_are_left_out(name, image):
    values = spoil(name, image)
    words = {"hot pixels": "4 single pixels", "scale bar": "a scale bar", "padding": "one and the"}
    with pytest.warns(UserWarning, match=f"got {words[name]}.* left out") as caught:
        found = place(values)
    assert len(caught) == 1
    assert np.isnan(found.image[values != image]).all()
    assert np.isfinite(found.image[values == image]).mean() > 0.97
    assert found.crystal.all()
    assert found.doubts == ()


@pytest.mark.parametrize("change", [lambda v: v.max() - v, lambda v: -v])
def test_inverted_images_are_refused(change, image, untrained):
    with pytest.raises(
        ValueError, match="columns brighter than .* expected, got darker ones.*; pass"
    ):
        infer(change(image), untrained)


def test_a_changed_grey_scale_is_said_and_remembered(image):
    low, high = np.percentile(image, (2, 98))
    with pytest.warns(UserWarning, match="got 2.0 % at the highest and 2.0 % at the lowest value"):
        found = place(np.clip(image, low, high))
    assert found.doubts == ("clipped",)


def test_the_plain_cause_comes_before_the_lattice_that_is_not_found():
    noise = np.random.default_rng(0).normal(100, 10, (200, 200))
    with pytest.raises(ValueError, match="^a hexagonal lattice"):
        place(noise)
    with pytest.raises(ValueError, match="^intensities that spread .*clipped.*; and a hexagonal"):
        place(noise.clip(85, 115))


def test_the_plain_cause_comes_before_the_context():
    conflict = {"detector": 30.0, "host": 1.0}
    known = {"inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "host": "WSe2"}
    with pytest.warns(UserWarning, match="^the image speaks against inner_collection_angle = 60.0"):
        warn_of_conflict(conflict, known, 10.0)
    with pytest.warns(
        UserWarning, match=r"^an image as it was .* \(gamma, clipped\).*counts first"
    ):
        warn_of_conflict(conflict, known, 10.0, ("gamma", "clipped"))


def test_an_image_of_hardly_more_than_padding_is_refused():
    image = np.zeros((120, 120))
    image[60, 60] = 1.0
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="valid pixels were expected, got .*; check the mask"),
    ):
        place(image)


def test_an_image_that_is_all_masked_but_its_gaps_is_refused():
    image, *_ = draw_image((240, 240), 20.0, counts=100.0)
    valid = np.zeros(image.shape, bool)
    valid[::3, ::3] = True
    with pytest.raises(ValueError, match="expected, got .*; "):
        place(np.where(valid, image, np.nan))
