import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bayesctx
from bayesctx.context import ANGLES, CONTEXT, is_annular_dark_field
from bayesctx.crystal import HOSTS


def test_units_and_titles_are_there():
    assert all(v.title and (v.unit or v.is_name) for v in CONTEXT.values())
    assert CONTEXT["beam_energy"].label == "beam_energy [eV]"
    assert CONTEXT["host"].label == "host"
    assert CONTEXT["host"].domain == tuple(HOSTS)


def test_names_and_units_need_neither_torch_nor_xarray():
    folder = str(Path(bayesctx.__file__).parent)
    code = (
        "import sys, types; package = types.ModuleType('bayesctx'); "
        f"package.__path__ = [{folder!r}]; sys.modules['bayesctx'] = package; "
        "import bayesctx.context as c; assert c.CONTEXT['dose'].unit; "
        "assert not {'torch', 'xarray', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ((30.0, 60.0, 200.0), True),
        ((30.0, 30.0, 200.0), True),
        ((30.0, 29.9, 200.0), False),
        ((30.0, 60.0, 62.0), False),
        ((30.0, 60.0, 63.1), True),
        ((30.0, 80.0, 60.0), False),
    ],
)
def test_one_rule_for_floats_arrays_and_tensors(angles, expected):
    assert is_annular_dark_field(*angles) is expected
    assert is_annular_dark_field(*np.array(angles)[:, None]).tolist() == [expected]
    found = is_annular_dark_field(*torch.tensor(angles)[:, None])
    assert found.dtype == torch.bool
    assert found.tolist() == [expected]


def test_the_rule_broadcasts():
    found = is_annular_dark_field(30.0, np.array([[20.0], [60.0]]), np.array([50.0, 62.0, 64.0]))
    assert found.tolist() == [[False, False, False], [False, False, True]]
    assert ANGLES == tuple(name for name in CONTEXT if name.endswith("angle"))
