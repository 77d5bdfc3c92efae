"""Values in error messages, and sizes against the memory of the machine."""

import io
import math
import os

import numpy as np
import pytest
import xarray as xr

from bayesctx import checks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(3.5), "3.5"),
        ("Ti", "'Ti'"),
        ("x" * 100, "'" + "x" * 76 + "..."),
        (xr.DataArray(3.0), "<xarray.DataArray ()> Size: 8B array(3.)"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        (10**5000, "a int"),
        ([10**5000], "a list"),
    ],
    ids=["number", "name", "long", "array", "matrix", "huge", "huge in a list"],
)
def test_values_are_written_on_one_short_line(value, text):
    assert checks.shorten(value) == text


@pytest.mark.parametrize("value", [-1, 10**6, 1.0, True, "2", None])
def test_numbers_of_workers_are_checked(value):
    with pytest.raises((TypeError, ValueError), match="num_workers was expected"):
        checks.check_workers(value)


@pytest.mark.parametrize(
    ("text", "limit"), [("1000000\n", 10**6), ("max\n", math.inf), (f"{2**62}\n", math.inf)]
)
def test_a_control_group_limits_memory(text, limit, monkeypatch):
    """Its file holds a number of bytes, or a word for no limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr("builtins.open", lambda *_: io.StringIO(text))
    found = checks._memory()
    monkeypatch.undo()
    assert found == min(limit, machine)
