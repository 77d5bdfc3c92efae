import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bayesctx
from bayesctx.context import ANGLES, CONTEXT, Detector, Probe, is_annular_dark_field
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
        "import bayesctx.context as c; "
        "print(c.CONTEXT['dose'].unit, {'torch', 'xarray', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["e/Å²", "set()"]


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
    def rule(convergence, *edges):
        return is_annular_dark_field(convergence, Detector(*edges))

    assert rule(*angles) is expected
    assert rule(*np.array(angles)[:, None]).tolist() == [expected]
    found = rule(*torch.tensor(angles)[:, None])
    assert found.dtype == torch.bool
    assert found.tolist() == [expected]


def test_the_rule_broadcasts():
    detector = Detector(np.array([[20.0], [60.0]]), np.array([50.0, 62.0, 64.0]))
    found = is_annular_dark_field(30.0, detector)
    assert found.tolist() == [[False, False, False], [False, False, True]]
    assert ANGLES == tuple(name for name in CONTEXT if name.endswith("angle"))


def test_records_are_made_from_values_by_name():
    values = {"beam_energy": 80e3, "convergence_semiangle": 30.0, "inner_collection_angle": 60.0}
    values |= {"outer_collection_angle": 200.0, "dose": 1e4, "host": "WSe2"}
    assert Probe.of(values) == Probe(80e3, 30.0, {}, 0.0, 0.0)
    assert Detector.of(values) == Detector(60.0, 200.0)
    assert Detector.of(values).edges == (60.0, 200.0)
    wide = values | {"defocus": 20.0, "C12": 3.0, "source_size": 0.8, "focal_spread": 30.0}
    assert Probe.of(wide) == Probe(80e3, 30.0, {"C10": -20.0, "C12": 3.0}, 0.8, 30.0)


@pytest.mark.parametrize(
    ("record", "values", "message"),
    [
        (Probe, {"beam_energy": 80e3}, r"convergence_semiangle \[mrad\] was expected, got beam_en"),
        (Detector, {}, "inner_collection_angle.*got no values; give it as well"),
        (Probe, {"defocus": 1.0, "C10": -1.0}, "either defocus or C10 was expected, got both"),
    ],
)
def test_records_say_what_is_missing(record, values, message):
    with pytest.raises(ValueError, match=message):
        record.of(values)
