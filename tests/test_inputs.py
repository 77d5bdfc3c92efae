"""What infer takes as an image: units, types and containers, and what is refused."""

import numpy as np
import pytest
import torch
import xarray as xr

from bayesctx import CONTEXT, infer, reference_prior, simulate, simulate_micrograph
from bayesctx.inference.inputs import pixel_size, read_inputs

NAMES = [name for name in CONTEXT if name != "sampling"]
ROUNDING = 1e-4  # of probabilities, by single precision within the networks


@pytest.fixture(scope="module")
def data():
    return simulate(reference_prior(), 4, seed=1)


KNOWN = {
    "host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 25.0,
    "inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "defocus": 0.0, "dose": 1e5,
}  # fmt: skip


@pytest.fixture(scope="module")
def micrograph():
    prior = reference_prior().given(KNOWN)
    return simulate_micrograph(prior, seed=0, num_pixels=96, sampling=0.25).intensity.values


def classes(image, context, model):
    return infer(image, context, model, num_draws=8, likelihood="network")[
        "class_posterior"
    ].defect.values


def read(image, valid=None, sampling=None):
    return read_inputs(image, valid, 8.0, 32, sampling)


UNITS = {
    "current in ampere": lambda x: 1e-12 * x,
    "small": lambda x: 1e-300 * x,
    "large": lambda x: 1e300 * x,
    "counts above 1e18": lambda x: 1e18 * x,
    "an offset": lambda x: x + 5e6 * x.std(),
    "an offset of a small unit": lambda x: 1e-200 * (x + 1e5 * x.std()),
}


@pytest.mark.parametrize("change", UNITS.values(), ids=UNITS)
def test_the_unit_of_patches_changes_nothing(change, data, untrained):
    values = data.intensity.values.astype(np.float64)
    images = data.intensity.copy(data=change(values))
    usual = classes(data.intensity, data[NAMES], untrained)
    assert np.allclose(classes(images, data[NAMES], untrained), usual, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("change", UNITS.values(), ids=UNITS)
def test_the_unit_of_a_micrograph_changes_nothing(change, micrograph, untrained):
    usual = classes(micrograph, KNOWN, untrained)
    found = classes(change(micrograph.astype(np.float64)), KNOWN, untrained)
    assert np.allclose(found, usual, rtol=0, atol=ROUNDING)


def test_unsigned_counts_with_a_large_offset_are_those_without(data, untrained):
    counts = np.rint(1e3 * data.intensity / data.intensity.max(("y", "x")))
    shifted = counts.astype(np.uint32) + np.uint32(2**31)
    usual = classes(counts, data[NAMES], untrained)
    assert np.allclose(classes(shifted, data[NAMES], untrained), usual, rtol=0, atol=ROUNDING)


FORMS = {
    "big-endian": lambda x: x.astype(">f8"),
    "negative strides": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "list": lambda x: x.tolist(),
    "tensor": torch.from_numpy,
    "tensor with a gradient": lambda x: torch.from_numpy(x).requires_grad_(),
    "masked array without a mask": np.ma.MaskedArray,
    "DataArray": lambda x: xr.DataArray(x, dims=("y", "x")),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_same_numbers_give_the_same_values(form, micrograph):
    assert np.array_equal(read(form(micrograph)).values[0], micrograph)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, torch.bfloat16])
def test_every_precision_can_be_stored(dtype, micrograph):
    image = (
        torch.from_numpy(micrograph).to(dtype)
        if dtype is torch.bfloat16
        else micrograph.astype(dtype)
    )
    assert read(image).observed.dtype in (np.float32, np.float64)


NO_IMAGES = {
    "ragged": [[1.0, 2.0], [3.0]],
    "sparse": torch.eye(64).to_sparse(),
    "on no device": torch.zeros(64, 64, device="meta"),
    "complex": np.zeros((64, 64), complex),
    "path": "image.npy",
    "nothing": None,
    "Dataset": xr.Dataset({"intensity": (("y", "x"), np.eye(64))}),
}


@pytest.mark.parametrize("image", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_array_of_numbers_is_refused(image):
    with pytest.raises(TypeError, match="was expected.*; pass"):
        read(image)


def test_arrays_without_pixels_are_refused():
    with pytest.raises(
        ValueError, match=r"at least one image was expected, got an array of shape \(0, 32, 32\)"
    ):
        read(np.zeros((0, 32, 32)))


def test_values_beyond_double_precision_are_no_pixels(micrograph):
    image = micrograph.astype(np.longdouble)
    image[:8] *= np.longdouble(10) ** 1000
    assert not read(image).valid[:8].any()
    assert read(image).valid[8:].all()


NO_MASKS = {
    "another shape": np.ones((5, 5), bool),
    "numbers": np.ones((96, 96)),
    "ragged": [[True], [True, False]],
    "a tensor on no device": torch.ones(96, 96, device="meta") > 0,
    "one value": True,
}


@pytest.mark.parametrize("valid", NO_MASKS.values(), ids=NO_MASKS)
def test_valid_is_an_array_of_bool_of_the_shape_of_the_image(valid, micrograph):
    with pytest.raises(
        ValueError, match=r"valid was expected as an array of bool of shape \(96, 96\)"
    ):
        read(micrograph, valid)


@pytest.mark.parametrize("form", [np.asarray, xr.DataArray, torch.from_numpy, np.ndarray.tolist])
def test_valid_may_have_any_form(form, micrograph):
    mask = np.ones(micrograph.shape, bool)
    mask[:10] = False
    assert np.array_equal(read(micrograph, form(mask)).valid, mask)


def test_valid_belongs_to_micrographs(data):
    with pytest.raises(ValueError, match="a micrograph .* was expected where valid is given"):
        read(data.intensity, np.ones((32, 32), bool))


def image_with(y, x=None, units="Å"):
    places = {"y": y, "x": y if x is None else x}
    coords = {n: (n, v, {} if units is None else {"units": units}) for n, v in places.items()}
    return xr.DataArray(np.zeros((len(places["y"]), len(places["x"]))), coords, ("y", "x"))


STEPS = np.arange(8.0)


@pytest.mark.parametrize(
    ("step", "units", "sampling"),
    [(0.25, "Å", 0.25), (0.025, "nm", 0.25), (25, "pm", 0.25), (-0.25, "angstrom", 0.25),
     (2.5e-11, "m", 0.25), (1, "px", None), (0.3, "1", None), (1, None, None)],
)  # fmt: skip
def test_coordinates_state_the_pixel_size(step, units, sampling):
    found = pixel_size(image_with(step * STEPS + 3e-9, units=units))
    assert found is None if sampling is None else found == pytest.approx(sampling, rel=1e-6)


WRONG = {
    "names": ([f"p{i}" for i in range(8)], "Å", "numbers were expected along y"),
    "times": (STEPS.astype("M8[ns]"), "Å", "numbers were expected along y"),
    "complex": (STEPS + 1j, "Å", "numbers were expected along y"),
    "not finite": (np.where(STEPS == 3, np.nan, STEPS), "Å", "finite coordinates were expected"),
    "all equal": (0 * STEPS, "Å", "equally spaced coordinates were expected"),
    "unequal": (STEPS**2, "Å", "equally spaced coordinates were expected"),
    "inch": (STEPS, "inch", "a unit of length were expected, got 'inch'"),
    "a number": (STEPS, 5, "a unit of length were expected, got '5'"),
    "far too small": (1e-300 * STEPS, "Å", "pixels of 0.02 to 0.6 Å were expected, .*do not show"),
    "too large": (0.25 * STEPS, "nm", "the coordinates state 0.25 nm; state sampling=0.25 if a po"),
    "ten times": (2 * STEPS, "Å", "the coordinates state 2 Å; state sampling=0.2 if a power of t"),
}  # fmt: skip


@pytest.mark.parametrize(("places", "units", "message"), WRONG.values(), ids=WRONG)
def test_coordinates_are_used_or_refused(places, units, message):
    with pytest.raises(ValueError, match=message):
        pixel_size(image_with(places, units=units))


def test_a_spacing_without_a_unit_is_said_not_to_be_used():
    with pytest.warns(UserWarning, match="a spacing of 0.25 and no unit"):
        assert pixel_size(image_with(0.25 * STEPS, units=None)) is None


def test_pixels_are_square():
    with pytest.raises(ValueError, match="square pixels were expected, got 0.25 Å and 0.3 Å"):
        pixel_size(image_with(0.25 * STEPS, 0.3 * STEPS))
