"""Host crystals, dopants and defect classes as columns of atoms along the beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DOPANTS", "HOSTS", "Host", "dopants_of"]

Atoms = tuple[tuple[str, float], ...]
"""A column: ``(element, z)`` pairs in order of the beam, z in Å along the beam, 0 in the metal plane."""


@dataclass(frozen=True)
class Host:
    """A monolayer 1H transition-metal dichalcogenide seen along its normal.

    Attributes
    ----------
    metal, chalcogen : str
        Chemical symbols.
    lattice_constant : float
        In-plane lattice constant in Å.
    chalcogen_separation : float
        Distance of the two chalcogen planes in Å.

    References
    ----------
    Rasmussen and Thygesen, J. Phys. Chem. C 119, 13169 (2015), doi:10.1021/acs.jpcc.5b02950.
    """

    metal: str
    chalcogen: str
    lattice_constant: float
    chalcogen_separation: float

    @property
    def name(self) -> str:
        """Chemical formula."""
        return f"{self.metal}{self.chalcogen}2"


_LATTICES = {
    ("Mo", "S"): (3.18, 3.13), ("Mo", "Se"): (3.32, 3.34), ("Mo", "Te"): (3.55, 3.61),
    ("W", "S"): (3.19, 3.15), ("W", "Se"): (3.32, 3.36), ("W", "Te"): (3.55, 3.63),
    ("Nb", "S"): (3.36, 3.13), ("Nb", "Se"): (3.48, 3.37),
    ("Ta", "S"): (3.34, 3.13), ("Ta", "Se"): (3.48, 3.36),
    ("V", "S"): (3.17, 2.98), ("V", "Se"): (3.33, 3.20),
}  # fmt: skip

HOSTS = {h.name: h for h in (Host(*formula, *lattice) for formula, lattice in _LATTICES.items())}

DOPANTS = {
    "Mo": ("Ti", "V", "Cr", "Mn", "Fe", "Nb", "W", "Re"),
    "W": ("Ti", "V", "Cr", "Mn", "Fe", "Nb", "Mo", "Re"),
    "Nb": ("Ti", "V", "Cr", "Fe", "Co", "Mo", "W", "Re"),
    "Ta": ("Ti", "V", "Cr", "Fe", "Nb", "Mo", "W", "Re"),
    "V": ("Ti", "Cr", "Mn", "Fe", "Co", "Nb", "Mo", "W"),
}
"""The eight dopants of each host metal: 12 hosts, 96 doped materials."""


def dopants_of(host: str) -> tuple[str, ...]:
    """Return the eight dopants that are considered on the metal site of a host.

    Parameters
    ----------
    host : str
        A key of ``HOSTS``.

    Returns
    -------
    tuple of str
        Chemical symbols.
    """
    return DOPANTS[HOSTS[host].metal]


def honeycomb(
    lattice_constant: float, radius: float
) -> tuple[list[tuple[float, float]], list[str]]:
    """Sites of a perfect monolayer around a metal site, nearest first.

    Parameters
    ----------
    lattice_constant, radius : float
        In Å.

    Returns
    -------
    positions : list of tuple
        (x, y) in Å.
    sites : list of str
        The key of ``SITES`` for each.
    """
    offsets = {"metal": 0.0, "chalcogen": 1 / math.sqrt(3), "hollow": -1 / math.sqrt(3)}
    reach = math.ceil(radius / lattice_constant * 2 / math.sqrt(3)) + 1
    found = []
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            for site, offset in offsets.items():
                x, y = (
                    (i + j / 2) * lattice_constant,
                    (j * math.sqrt(3) / 2 + offset) * lattice_constant,
                )
                if math.hypot(x, y) <= radius:
                    found.append((math.hypot(x, y), x, y, site))
    found.sort()
    return [(x, y) for _, x, y, _ in found], [site for *_, site in found]
