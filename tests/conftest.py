"""Shared set-up: one thread, no display, small models, and the data that not every checkout has."""

from pathlib import Path

import matplotlib
import pytest
import torch

from bayesctx import DefectModel, reference_prior

matplotlib.use("Agg")
torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", help="torch device of the tests that can run on any"
    )


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data beside the repository is absent")
    return SHARED


@pytest.fixture(scope="session")
def untrained():
    """A small model with random weights: contracts do not need a good one."""
    model = DefectModel(reference_prior(), num_features=6, num_components=2, hidden=16, width=8)
    # untrained densities hardly differ between hypotheses: spread them
    with torch.no_grad():
        for parameter in model.likelihood.parameters():
            parameter *= 3
    return model.eval()
