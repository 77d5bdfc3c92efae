"""A sample of the hostile inputs of benchmarks/fuzz.py, and that faults are seen as such."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from fuzzing.case import Case, complaint_of_error, complaint_of_posterior, run_case
from fuzzing.kinds import KINDS, run_input, shares
from fuzzing.scenes import model_of, patches

import bayesctx as bc

SEED = 20
NUM = dict.fromkeys(KINDS, 12) | {"contexts": 40, "patches": 40, "cards": 20, "micrographs": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_ends_well(kind):
    found = [run_input(kind, SEED, i) for i in range(NUM[kind])]
    assert [(i, o.where, o.message) for i, o in enumerate(found) if o.is_fault] == []


def test_inputs_are_the_same_each_time():
    first, second = (run_input("contexts", SEED, 3) for _ in range(2))
    assert (first.text, first.verdict, first.message) == (
        second.text,
        second.verdict,
        second.message,
    )


def test_all_kinds_have_their_share():
    found = shares(1000)
    assert len(found) == len(set(found)) == 1000
    assert {kind for kind, _ in found} == set(KINDS)


def set_dtype():
    torch.set_default_dtype(torch.float64)


def use_generator():
    torch.rand(1)


def add_filter():
    warnings.simplefilter("ignore", DeprecationWarning)


def warn_of_numbers():
    np.float64(1) / np.zeros(1)


def leave_file():
    Path(".x.tmp").write_text("")


def raise_key():
    raise KeyError("x")


FAULTS = {
    "state": (set_dtype, "default dtype"),
    "generator": (use_generator, "torch generator"),
    "filter": (add_filter, "warning filters"),
    "warning": (warn_of_numbers, "RuntimeWarning"),
    "file": (leave_file, "left behind: ['.x.tmp']"),
    "exception": (raise_key, "KeyError"),
}


@pytest.mark.parametrize(("call", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_seen(call, message, tmp_path):
    try:
        found = run_case(Case("", call), tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.is_fault
    assert message in found.message


@pytest.mark.parametrize(
    ("error", "flaw"),
    [
        (KeyError("x"), "KeyError"),
        (ValueError("bad"), "not what was expected, not what to do"),
        (ValueError("3 was expected, got 4"), "not what to do"),
        (TypeError("3 was expected,\ngot 4; repair it"), "several lines"),
        (OSError("3 was expected, got " + 500 * "4" + "; repair it"), "characters"),
    ],
)
def test_errors_have_three_parts_in_one_line(error, flaw):
    assert flaw in complaint_of_error(error)
    assert (
        not complaint_of_error(type(error)("3 was expected, got 4; repair it"))
        or flaw == "KeyError"
    )


@pytest.fixture(scope="module")
def tree():
    context = {"host": "MoS2", "dopant": "V", "beam_energy": 80e3, "convergence_semiangle": 25.0}
    context |= {"inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "dose": 1e5}
    return bc.infer(patches()[0], context | {"defocus": 0.0}, model_of("small"), num_draws=4)


def test_posteriors_are_finite_and_normalised(tree):
    assert complaint_of_posterior(tree) == ""
    for value, flaw in ((np.nan, "not finite"), (0.5, "not normalised"), (-1.0, "no probability")):
        changed = tree.copy(deep=True)
        changed["class_posterior"].defect.values.fill(value)
        assert flaw in complaint_of_posterior(changed)
    changed = tree.copy(deep=True)
    changed["posterior"] = xr.Dataset({"dose": ("draw", [1e12])})
    assert "outside of its domain" in complaint_of_posterior(changed)
