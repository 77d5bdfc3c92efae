"""Objects in memory as HyperSpy, sidpy and LiberTEM have them, with what of them is read.

They stand for objects of packages that are not installed beside the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np


class Tree(SimpleNamespace):
    """Metadata as HyperSpy keeps them."""

    def __init__(self, tree: Mapping[str, object]) -> None:
        super().__init__(tree=tree)

    def as_dictionary(self) -> Mapping[str, object]:
        """The metadata."""
        return self.tree


def signal_of_hyperspy(
    values: np.ndarray, navigate: tuple[int, ...] = (), original: Mapping | None = None
) -> SimpleNamespace:
    """A Signal2D, whose axes 0, 1 ... may be those of navigation."""
    axes = [
        SimpleNamespace(name="", scale=0.02, units="nm", navigate=k in navigate)
        for k in range(values.ndim)
    ]
    mapped = {"beam_energy": 60.0, "convergence_angle": 30.0}
    return SimpleNamespace(
        data=values,
        axes_manager=SimpleNamespace(_axes=axes),
        metadata=Tree({"General": {"title": "ADF"}, "Acquisition_instrument": {"TEM": mapped}}),
        original_metadata=Tree(original or {}),
    )


def dataset_of_sidpy(
    values: np.ndarray, kind: str = "IMAGE", original: Mapping | None = None
) -> np.ndarray:
    """A Dataset, an array whose first dimension is x."""
    array = np.asarray(values).T.view(type("Dataset", (np.ndarray,), {}))
    for k, name in enumerate("xy"):
        dim = (np.arange(array.shape[k]) * 0.02).view(type("Dimension", (np.ndarray,), {}))
        dim.name, dim.units = name, "nm"
        setattr(array, f"dim_{k}", dim)
    array.data_type = SimpleNamespace(name=kind)
    array.title, array.metadata = "HAADF", {"experiment": {"acceleration_voltage": 80000.0}}
    array.original_metadata = dict(original or {})
    return array


class Buffer:
    """As a UDF of LiberTEM returns it: flat, and an array of the shape of the scan."""

    def __init__(self, values: np.ndarray, kind: str) -> None:
        self.values, self.raw_data, self.kind = values, values.ravel(), kind

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.values


def result_of_libertem(values: np.ndarray, kind: str = "nav") -> Buffer:
    """A buffer over the positions of the scan, "nav", or over the pixels of the camera, "sig"."""
    return Buffer(values, kind)
