import collections
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import xarray as xr

from bayesctx.context import ANGLES, Detector, Probe
from bayesctx.evidence import check_context, check_imaging
from bayesctx.evidence.agreement import condition_on
from bayesctx.evidence.truncation import Truncated
from bayesctx.prior import tmd_prior

UNIFORM = dist.Uniform(60.0, 110.0)
CONVERGENCE, INNER, OUTER = ANGLES


def test_values_take_one_form():
    checked = check_context({
        "host": "WSe2",
        "dopant": ["Ti", "V"],
        "beam_energy": np.float32(80e3),
        "inner_collection_angle": UNIFORM,
        "dose": xr.DataArray([1e4, 1e5], dims="image"),
        "sampling": torch.tensor(0.2),
    })  # fmt: skip
    assert checked["host"] == "WSe2"
    assert checked["dopant"] == ["Ti", "V"]
    assert checked["beam_energy"] == 80e3
    assert type(checked["beam_energy"]) is float
    assert checked["inner_collection_angle"] is UNIFORM
    assert checked["dose"].tolist() == [1e4, 1e5]
    assert checked["sampling"] == pytest.approx(0.2)


@pytest.mark.parametrize("value", [
    8e4, 80000, np.float32(8e4), np.longdouble(8e4), np.int64(80000), np.array(8e4),
    Fraction(80000), Decimal(80000), torch.tensor(8e4), torch.tensor(80000),
    torch.tensor(8e4, requires_grad=True), xr.DataArray(8e4), [8e4], [8e4, 8e4], {8e4},
    xr.DataArray(80.0, attrs={"units": "keV"}), range(80000, 80001), [torch.tensor(8e4)],
], ids=repr)  # fmt: skip
def test_numbers_of_every_kind_are_one_float(value):
    found = check_context({"beam_energy": value})["beam_energy"]
    assert found == 8e4
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [
        np.array([8e4, 9e4]),
        np.array([8e4, 9e4], object),
        np.ma.masked_array([8e4, 9e4]),
        torch.tensor([80000, 90000]),
        xr.DataArray([8e4, 9e4], dims="image"),
        xr.DataArray([80.0, 90.0], dims="image", attrs={"units": "keV"}),
        pd.Series([8e4, 9e4]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_arrays_hold_one_value_per_image(value):
    found = check_context({"beam_energy": value})["beam_energy"]
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [8e4, 9e4]


def test_a_dataset_is_a_context():
    data = xr.Dataset({"host": ("image", ["MoS2", "WSe2"]), "dopant": ("image", ["W", "Ti"])})
    assert check_context(data)["host"].tolist() == ["MoS2", "WSe2"]


def test_nothing_known_is_an_empty_context():
    assert check_context(None) == {}
    assert check_context({}) == {}


def test_what_is_checked_stays_the_same():
    context = {
        "host": ["MoS2", "WS2"],
        "inner_collection_angle": [60, 110],
        "dose": np.array([1e4]),
        "defocus": dist.Normal(0.0, 10.0),
    }
    checked = check_context(context)
    again = check_context(checked)
    assert str(again) == str(checked)
    assert again["defocus"] is checked["defocus"]


def test_collections_but_for_tuples_of_numbers_are_candidates():
    for names in (["WS2", "MoS2"], ("WS2", "MoS2"), {"WS2", "MoS2"}, frozenset(["WS2", "MoS2"])):
        assert sorted(check_context({"host": names})["host"]) == ["MoS2", "WS2"]
    for numbers in ([60, 110], {110, 60}):
        assert check_context({"inner_collection_angle": numbers}) == {
            "inner_collection_angle": [60.0, 110.0]
        }
    assert check_context({"defocus": range(3)}) == {"defocus": [0.0, 1.0, 2.0]}
    # the command line's 60..110 is a range, and so a tuple may be meant
    for numbers in ((60, 110), (60,), (60, 80, 110)):
        with pytest.raises(TypeError, match="got the tuple.*a list for candidates.*Uniform"):
            check_context({"inner_collection_angle": numbers})


def test_the_order_of_a_set_does_not_depend_on_the_process():
    hosts = {"WS2", "MoS2", "VS2", "NbS2", "MoSe2", "WTe2", "TaS2"}
    assert check_context({"host": hosts})["host"] == sorted(hosts)
    assert check_context({"dose": frozenset([1e6, 1e4, 1e5])})["dose"] == [1e4, 1e5, 1e6]


class Unprintable:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize(("context", "error", "message"), [
    ({"defocuss": 3.0}, ValueError, "unknown context variable 'defocuss'.*did you mean 'defocus'"),
    ({"colour": 3.0}, ValueError, "leave a variable out to infer it"),
    ({3: 1}, ValueError, "unknown context variable 3"),
    ({10**5000: 1}, ValueError, "unknown context variable a int"),
    ({"beam_energy": 80}, ValueError, "between 30000 and 300000, got 80; 80 keV is 80000 eV"),
    ({"beam_energy": [80, 60]}, ValueError, "80 keV is 80000 eV"),
    ({"convergence_semiangle": 0.03}, ValueError, "0.03 rad is 30 mrad"),
    ({"sampling": 0.012}, ValueError, "0.012 nm is 0.12 Å/px"),
    ({"sampling": 0.61}, ValueError, "between 0.02 and 0.6, got 0.61"),
    ({"dose": -1.0}, ValueError, "between 100 and"),
    ({"dose": 50.0}, ValueError, "between 100 and 1e[+]08, got 50"),
    ({"dose": -0.0}, ValueError, "between 100 and"),
    ({"dose": float("nan")}, ValueError, "got NaN; leave it out"),
    ({"dose": np.array([1e4, np.nan])}, ValueError, "got NaN; leave it out"),
    ({"dose": pd.Series([1e4, None])}, ValueError, "got NaN; leave it out"),
    ({"dose": Decimal("sNaN")}, ValueError, "got Decimal"),
    ({"dose": float("inf")}, ValueError, "got inf"),
    ({"dose": 10**400}, ValueError, "between 100 and 1e[+]08, got 1000"),
    ({"dose": 10**5000}, ValueError, "got a int"),
    ({"dose": [10**400]}, ValueError, "between 100 and 1e[+]08, got 1000"),
    ({"dose": True}, TypeError, "as a number.*got True"),
    ({"dose": np.True_}, TypeError, r"as numbers in e/Å², got (np\.)?True"),
    ({"dose": 1e4 + 1j}, TypeError, "as a number"),
    ({"dose": np.array([1j])}, TypeError, "as numbers"),
    ({"dose": np.timedelta64(1000, "ns")}, TypeError, "as numbers"),
    ({"dose": "high"}, TypeError, "got 'high'"),
    ({"dose": b"1e4"}, TypeError, "got b'1e4'"),
    ({"dose": None}, TypeError, "got None; leave it out to infer it"),
    ({"dose": Unprintable()}, TypeError, "got a Unprintable"),
    ({"dose": print}, TypeError, "got <built-in function print>"),
    ({"dose": dist.Normal}, TypeError, "as a number, a list of candidates or a distribution"),
    ({"dose": scipy.stats.norm(1e4, 1e3)}, TypeError, "a list of candidates or a distribution"),
    ({"dose": {"value": 1e4}}, TypeError, "as a number"),
    ({"dose": collections.deque([1e4])}, TypeError, "as a number"),
    ({"dose": xr.Dataset({"dose": 1e4})}, TypeError, "as a number"),
    ({"dose": pd.NA}, TypeError, "got <NA>"),
    ({"dose": torch.empty(1, device="meta")}, TypeError, "as a number"),
    ({"dose": []}, ValueError, "empty list"),
    ({"dose": range(10**30)}, ValueError, "1 to 1000 candidates, got more"),
    ({"dose": [[1e4]]}, TypeError, r"got \[10000.0\]"),
    ({"dose": [1e4, "x"]}, TypeError, "got 'x'"),
    ({"dose": [1e4, None]}, TypeError, "got None"),
    ({"dose": np.array([])}, ValueError, "got an empty array"),
    ({"dose": np.ones((2, 2)) * 1e4}, ValueError, r"per image, got an array of shape \(2, 2\)"),
    ({"dose": np.ma.masked_array([1e4, 1e4], [False, True])}, ValueError, "got masked values"),
    ({"dose": np.array([1e4, "x"], object)}, TypeError, "got 'x'"),
    ({"defocus": xr.DataArray(10.0, attrs={"units": "inch"})}, ValueError, "in Å, .* in 'inch'"),
    ({"host": "wse2"}, ValueError, "did you mean 'WSe2'"),
    ({"host": 3}, TypeError, "as a name"),
    ({"host": b"WSe2"}, TypeError, "as a name, got b'WSe2'"),
    ({"host": np.array([1.0])}, TypeError, "as names"),
    ({"host": dist.Normal(0.0, 1.0)}, TypeError, "got a distribution"),
    ({"beam_energy": dist.Uniform(60.0, 90.0)}, ValueError, "with 0 % of it there; check its unit"),
    ({"dose": dist.Normal(torch.zeros(2), 1.0)}, ValueError, r"of one number, got .* \(2,\)"),
    ({"dose": dist.Normal(torch.zeros(1), 1.0)}, ValueError, r"of one number, got .* \(1,\)"),
    ({"dose": dist.Dirichlet(torch.ones(3))}, ValueError, "a distribution of one number"),
    ({"dose": dist.Normal(math.nan, 1.0, validate_args=False)}, ValueError, "to have mass between"),
    ({INNER: 80, OUTER: 60}, ValueError, "inner below the outer"),
    ({INNER: 60, OUTER: 62}, ValueError, r"1.05 \* inner_collection_angle < outer"),
    ({INNER: 26, CONVERGENCE: 30}, ValueError, "outside of the probe's cone"),
    ({CONVERGENCE: 39, OUTER: 40}, ValueError, "got convergence_semiangle 39.0 and outer"),
    ({CONVERGENCE: 30.0, INNER: np.array([80.0, 26.0])}, ValueError, "26.0 of image 1"),
    ({"host": "MoS2", "dopant": "Mo"}, ValueError, "a dopant other than the metal of the host"),
    ({"host": np.array(["MoS2", "WS2"]), "dopant": "W"}, ValueError, "dopant W of image 1"),
    ({"host": np.array(["VS2"] * 2), "dopant": np.array(["W", "V"])}, ValueError, "dopant V of"),
    ({"host": np.array(["VS2"]), "dopant": np.array(["W", "Ti"])}, ValueError, "the same images"),
    ({"dose": np.array([1e4, 1e4]), INNER: np.array([60.0])}, ValueError, "images, got 2 and 1"),
    ("WSe2", TypeError, "as a mapping"),
    ([("host", "WSe2")], TypeError, "as a mapping"),
    (pd.Series({"host": "WSe2"}), TypeError, "as a mapping"),
])  # fmt: skip
def test_mistakes_are_named_in_one_line(context, error, message):
    with pytest.raises(error, match=message) as caught:
        check_context(context)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)


def test_one_possible_combination_of_candidates_is_enough():
    assert check_context({"host": ["MoS2", "WS2"], "dopant": "W"})["host"] == ["MoS2", "WS2"]
    angles = {CONVERGENCE: [20, 39], INNER: np.array([30.0, 25.0]), OUTER: [31, 60]}
    assert check_context(angles)[CONVERGENCE] == [20.0, 39.0]


def test_a_model_may_narrow_the_domain():
    with pytest.raises(ValueError, match="between 60000 and 200000, got 40000"):
        check_context({"beam_energy": 40e3}, {"beam_energy": (60e3, 200e3)})
    with pytest.raises(ValueError, match="to be 28, all that this model covers, got Normal"):
        check_context(
            {"convergence_semiangle": dist.Normal(28.0, 2.0)}, {"convergence_semiangle": (28, 28)}
        )


def test_values_at_the_edge_survive_single_precision():
    assert check_context({"dose": np.float32(1e2)})["dose"] == 100.0
    # 0.6 in single precision is 2e-8 larger
    assert check_context({"sampling": np.float32(0.6)})["sampling"] == 0.6


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("dose", 1.098e6, 1e6),
        ("dose", [1.24e6, 1e4], [1e6, 1e4]),
        ("dose", 760.0, 1e3),
        ("defocus", -62.9, -60.0),
        ("beam_energy", np.array([8e4, 38.1e3]), [8e4, 40e3]),
    ],
)
def test_values_slightly_beyond_the_domain_are_taken_as_its_bound(name, value, bound):
    domains = {"dose": (1e3, 1e6), "defocus": (-60.0, 60.0), "beam_energy": (40e3, 300e3)}
    with pytest.warns(UserWarning, match=rf"{name} \[.*is beyond .*taken as") as caught:
        found = check_context({name: value}, domains)[name]
    assert np.array_equal(found, bound)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("name", "value"), [("dose", 1.26e6), ("dose", 740.0), ("defocus", 63.1), ("beam_energy", 37e3)]
)
def test_values_further_beyond_are_refused(name, value):
    domains = {"dose": (1e3, 1e6), "defocus": (-60.0, 60.0), "beam_energy": (40e3, 300e3)}
    with pytest.raises(ValueError, match="was expected between"):
        check_context({name: value}, domains)


def test_the_physics_has_no_margin():
    found = check_imaging(Probe(80e3, 30), Detector(np.float32(60), torch.tensor(200)))
    assert found == (Probe(80e3, 30.0), Detector(60.0, 200.0))
    assert all(type(value) is float for value in found[1].edges)
    with pytest.raises(ValueError, match="between 30000 and 300000, got 301000"):
        check_imaging(Probe(301e3, 30), Detector(60, 200))
    with pytest.raises(ValueError, match="outside of the probe's cone"):
        check_imaging(Probe(80e3, 30), Detector(60, 62))


@pytest.mark.parametrize(
    ("probe", "error", "message"),
    [
        (80e3, TypeError, "a Probe was expected, got 80000.0; use bayesctx.Probe"),
        (Probe([60e3, 80e3], 30), TypeError, r"beam_energy \[eV\] was expected as one number"),
        (Probe(80e3, 30, 20.0), TypeError, "aberrations were expected as a mapping.*got 20.0"),
        (Probe(80e3, 30, {"C5": 1.0}), ValueError, "aberrations among C10.*got 'C5'; use these"),
        (Probe(80e3, 30, {"C10": math.nan}), ValueError, r"C10 \[Å\] was expected as one number"),
        (Probe(80e3, 30, {"phi12": "1"}), ValueError, r"phi12 \[rad\] was expected.*got '1'"),
        (Probe(80e3, 30, source_size=-0.8), ValueError, r"source_size \[Å\].*>= 0, got -0.8"),
        (Probe(80e3, 30, focal_spread=10**400), ValueError, r"focal_spread \[Å\].*>= 0, got"),
        (Probe(80e3, 30, source_size=np.ones(2)), ValueError, r"source_size \[Å\].*one number"),
    ],
)
def test_probes_that_cannot_be_are_refused(probe, error, message):
    with pytest.raises(error, match=message):
        check_imaging(probe, Detector(60, 200))


def test_evidence_is_truncated_and_says_what_is_cut_off():
    domains = {"dose": (1e3, 1e6), "defocus": (-60.0, 60.0)}
    # 2 (1 - Phi(0.3)) = 0.764
    with pytest.warns(UserWarning, match=r"defocus \[Å\]: 76 % of the mass of Normal.*-60 to 60"):
        found = check_context({"defocus": dist.Normal(0.0, 200.0)}, domains)["defocus"]
    assert isinstance(found, Truncated)
    assert (found.low, found.high) == (-60.0, 60.0)
    with pytest.warns(UserWarning, match="4 % of the mass"):
        check_context({"dose": dist.Normal(1e4, 5e3)}, domains)
    with pytest.warns(UserWarning, match="55 % of the mass"):
        check_context({"dose": dist.Uniform(-1e4, 1e4)}, domains)
    # less than a per cent outside is no reason to warn, 99.2 % is one to refuse
    check_context({"dose": dist.Normal(1e4, 3.8e3)}, domains)
    with pytest.raises(ValueError, match="with 0.8 % of it there"):
        check_context({"defocus": dist.Normal(0.0, 6000.0)}, domains)


def test_evidence_checked_for_the_physics_is_truncated_further_for_a_model():
    with pytest.warns(UserWarning, match="62 %"):
        wide = check_context({"defocus": dist.Normal(0.0, 200.0)})["defocus"]
    # of what is within 100 Å, P(|x| < 60) / P(|x| < 100) = 0.2358 / 0.3829 is within 60 Å
    with pytest.warns(UserWarning, match="38 %"):
        narrow = check_context({"defocus": wide}, {"defocus": (-60.0, 60.0)})["defocus"]
    assert narrow.mass == pytest.approx(0.23582, abs=1e-5)


def test_numbers_of_a_condition_are_weighed_by_the_evidence():
    conditions = tmd_prior().conditions
    energies = [
        c["beam_energy"] for c in condition_on(conditions, {"beam_energy": [8e4, 8e4, 6e4]})
    ]
    assert energies.count(8e4) == 2 * energies.count(6e4)
    assert 2e5 not in energies
    # densities of exp(-1/2) at 60 keV and 1 at 80 keV
    soft = dist.Normal(8e4, 2e4)
    energies = [c["beam_energy"] for c in condition_on(conditions, {"beam_energy": soft})]
    assert energies.count(6e4) / energies.count(8e4) == pytest.approx(math.exp(-0.5), abs=1 / 32)
    assert 2e5 not in energies
    assert len(condition_on(conditions, {"beam_energy": 8e4})) == 2
    assert condition_on(conditions, {"beam_energy": 1e5}) == ()
    assert condition_on(conditions, {"beam_energy": dist.Uniform(9e4, 1e5)}) == ()
    (first, *_), numbers = condition_on(conditions, {"defocus": [0.0, 10.0]}), (0.0, 10.0)
    assert first["defocus"] == numbers


@pytest.mark.parametrize("value", [None, "none", np.str_("none"), xr.DataArray("none"), [None]])
def test_an_undoped_crystal_takes_one_form(value):
    checked = check_context({"dopant": value, "host": "WSe2"})
    assert checked == {"dopant": None, "host": "WSe2"}
    assert check_context(checked) == checked


def test_some_images_may_be_of_undoped_crystals():
    for values in (np.array([None, "Ti", "V"]), np.array(["none", "Ti", "V"])):
        checked = check_context({"dopant": values, "host": "WSe2"})
        assert checked["dopant"].tolist() == [None, "Ti", "V"]
        assert check_context(checked)["dopant"].tolist() == [None, "Ti", "V"]


def test_no_dopant_and_no_site_that_holds_it_are_the_same():
    checked = check_context({"abundance": {"D_M": 0, "V_X": 0.03}})
    assert checked == {"abundance": {"D_M": 0.0, "V_X": 0.03}, "dopant": None}
    assert check_context(checked) == checked
    assert "dopant" not in check_context({"abundance": {"D_M": 0.01}})


@pytest.mark.parametrize(("context", "error", "message"), [
    ({"host": None}, TypeError, "host was expected to have a value, got None"),
    ({"dopant": ["Ti", None]}, ValueError, "as None alone for an undoped crystal"),
    ({"dopant": {"Ti", "none"}}, ValueError, "as None alone for an undoped crystal"),
    ({"dopant": None, "abundance": {"D_M": 0.1}}, ValueError, "got dopant None and D_M 0.1"),
    ({"dopant": "Ti", "abundance": {"D_M": 0}}, ValueError, "got dopant 'Ti' and D_M 0"),
    ({"dopant": ["Ti", "V"], "abundance": {"D_M": 0}}, ValueError, "leave one of them out"),
    ({"dopant": np.array(["Ti", None]), "abundance": {"D_M": 0.1}}, ValueError, "leave one of th"),
    ({"dopant": np.array(["Ti", None]), "abundance": {"D_M": 0}}, ValueError, "leave one of them"),
    ({"dopant": "W", "host": "WSe2"}, ValueError, "a dopant other than the metal of the host"),
    ({"abundence": {}}, ValueError, "known are .*abundance; did you mean 'abundance'"),
])  # fmt: skip
def test_dopants_and_abundances_that_cannot_be(context, error, message):
    with pytest.raises(error, match=message):
        check_context(context)
