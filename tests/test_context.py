import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from bayesctx.context import CONTEXT, check_context


def test_values_take_one_form():
    checked = check_context({
        "host": "WSe2", "dopant": ["Ti", "V"], "beam_energy": np.float32(80e3), "defocus": dist.Normal(0.0, 10.0),
        "dose": xr.DataArray([1e4, 1e5], dims="image"), "sampling": torch.tensor(0.2),
    })  # fmt: skip
    assert checked["host"] == "WSe2"
    assert checked["dopant"] == ("Ti", "V")
    assert checked["beam_energy"] == 80e3
    assert type(checked["beam_energy"]) is float
    assert isinstance(checked["defocus"], dist.Normal)
    assert checked["dose"].tolist() == [1e4, 1e5]
    assert checked["sampling"] == pytest.approx(0.2)


def test_a_dataset_is_a_context():
    data = xr.Dataset({"host": ("image", ["MoS2", "WSe2"]), "dopant": ("image", ["W", "Ti"])})
    checked = check_context(data)
    assert checked["host"].tolist() == ["MoS2", "WSe2"]


def test_nothing_known_is_an_empty_context():
    assert check_context(None) == {}
    assert check_context({}) == {}


def test_observed_values_at_the_edge_survive_single_precision():
    assert check_context({"dose": np.float32(1e2)})["dose"] == 100.0


@pytest.mark.parametrize(("context", "error", "message"), [
    ({"defocuss": 3.0}, ValueError, "unknown context variable 'defocuss'.*did you mean 'defocus'"),
    ({"colour": 3.0}, ValueError, "leave a variable out to infer it"),
    ({"beam_energy": 80}, ValueError, r"beam_energy \[eV\] was expected between 30000 and 300000, got 80; 80 keV is 80000 eV"),
    ({"convergence_semiangle": 0.03}, ValueError, "0.03 rad is 30 mrad"),
    ({"sampling": 0.012}, ValueError, "0.012 nm is 0.12 Å/px"),
    ({"dose": -1.0}, ValueError, "between 100 and"),
    ({"dose": float("nan")}, ValueError, "got NaN; leave it out"),
    ({"dose": float("inf")}, ValueError, "got inf"),
    ({"dose": True}, TypeError, "as a number.*got True"),
    ({"dose": "high"}, TypeError, "got 'high'"),
    ({"dose": None}, TypeError, "got None; leave it out to infer it"),
    ({"dose": []}, ValueError, "empty list"),
    ({"dose": np.ones((2, 2)) * 1e4}, ValueError, "one value per image"),
    ({"host": "wse2"}, ValueError, "did you mean 'WSe2'"),
    ({"host": 3}, TypeError, "as a name"),
    ({"host": dist.Normal(0.0, 1.0)}, TypeError, "got a distribution"),
    ({"beam_energy": dist.Uniform(60.0, 90.0)}, ValueError, "check its unit"),
    ({"beam_energy": dist.Normal(torch.zeros(2), 1.0)}, ValueError, "a distribution of one number"),
    ({"inner_collection_angle": 80, "outer_collection_angle": 60}, ValueError, "inner below the outer"),
    ({"inner_collection_angle": 26, "convergence_semiangle": 30}, ValueError, "outside of the probe's cone"),
    ({"host": "MoS2", "dopant": "Mo"}, ValueError, "a dopant other than the metal of the host"),
    ({"host": np.array(["MoS2", "WS2"]), "dopant": np.array(["W", "W"])}, ValueError, "host WS2 and dopant W"),
    ({"host": np.array(["MoS2"]), "dopant": np.array(["W", "Ti"])}, ValueError, "for the same images"),
    ("WSe2", TypeError, "as a mapping"),
])  # fmt: skip
def test_mistakes_are_named_in_one_line(context, error, message):
    with pytest.raises(error, match=message) as caught:
        check_context(context)
    assert "\n" not in str(caught.value)


def test_one_possible_combination_of_candidates_is_enough():
    assert check_context({"host": ["MoS2", "WS2"], "dopant": "W"})["host"] == ("MoS2", "WS2")


def test_a_model_may_narrow_the_domain():
    with pytest.raises(ValueError, match="between 60000 and 200000, got 40000"):
        check_context({"beam_energy": 40e3}, {"beam_energy": (60e3, 200e3)})


def test_units_and_titles_are_there():
    assert all(v.title and (v.unit or v.is_name) for v in CONTEXT.values())
