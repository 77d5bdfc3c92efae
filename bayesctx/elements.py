"""Chemical elements: atomic numbers and thermal displacements."""

from __future__ import annotations

__all__ = ["METALS", "THERMAL_DISPLACEMENT"]

METALS = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Nb", "Mo", "Ta", "W", "Re")

ATOMIC_NUMBERS = {
    "O": 8, "S": 16, "Ti": 22, "V": 23, "Cr": 24, "Mn": 25, "Fe": 26, "Co": 27,
    "Se": 34, "Nb": 41, "Mo": 42, "Te": 52, "Ta": 73, "W": 74, "Re": 75,
}  # fmt: skip

CHALCOGENS = ("S", "Se", "Te")

THERMAL_DISPLACEMENT = {
    "O": 0.085, "S": 0.075, "Se": 0.070, "Te": 0.068, "Ti": 0.078, "V": 0.075, "Cr": 0.072, "Mn": 0.071, "Fe": 0.070,
    "Co": 0.070, "Nb": 0.065, "Mo": 0.060, "Ta": 0.055, "W": 0.050, "Re": 0.050,
}  # fmt: skip
"""Root mean square thermal displacement along one axis, in Å: typical values at room temperature, good to 25 %."""
