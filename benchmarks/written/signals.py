"""HSPY by RosettaSciIO, as HyperSpy saves a signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_hspy(
    path: Path, values: np.ndarray, *, nanometres: float, metadata: dict, original: dict
) -> None:
    """Write an image (y, x), or a series (frame, y, x)."""
    from rsciio.hspy import file_writer

    axes = [
        {"name": name, "scale": nanometres, "offset": 0.0, "units": "nm", "size": size}
        for name, size in zip(("frame", "y", "x")[-values.ndim :], values.shape, strict=True)
    ]
    signal = {
        "data": values,
        "axes": [axis | {"navigate": axis["name"] == "frame"} for axis in axes],
        "metadata": {"General": {"title": "scan"}} | metadata,
        "original_metadata": original,
        "attributes": {"_lazy": False},
        "learning_results": {},
        "models": {},
        "tmp_parameters": {},
        "package_info": {"package": "hyperspy", "package_version": "2.5.0"},
    }
    file_writer(str(path), signal)
