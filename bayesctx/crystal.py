"""Elements, structure types with their sites and symmetry, hosts and their dopants."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

__all__ = [
    "DOPANTS",
    "HOSTS",
    "Host",
    "METALS",
    "MONOLAYER_1H",
    "StructureType",
    "THERMAL_DISPLACEMENT",
]

METALS = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Nb", "Mo", "Ta", "W", "Re")

ATOMIC_NUMBERS = {
    "O": 8, "S": 16, "Ti": 22, "V": 23, "Cr": 24, "Mn": 25, "Fe": 26, "Co": 27,
    "Se": 34, "Nb": 41, "Mo": 42, "Te": 52, "Ta": 73, "W": 74, "Re": 75,
}  # fmt: skip

CHALCOGENS = ("S", "Se", "Te")

THERMAL_DISPLACEMENT = {
    "O": 0.085, "S": 0.075, "Se": 0.070, "Te": 0.068, "Ti": 0.078, "V": 0.075, "Cr": 0.072,
    "Mn": 0.071, "Fe": 0.070, "Co": 0.070, "Nb": 0.065, "Mo": 0.060, "Ta": 0.055, "W": 0.050,
    "Re": 0.050,
}  # fmt: skip
"""Root mean square thermal displacement along one axis in Å, typical of room temperature (± 25 %).
"""


@dataclass(frozen=True)
class StructureType:
    """A layer with a hexagonal cell, seen along its normal: its kinds of site and their symmetry.

    Attributes
    ----------
    name : str
        Name of the structure type.
    sites : tuple of str
        Kinds of site in the cell, one of each; ``kind`` is an index into it everywhere.
    offsets : tuple of float
        Position of each site along the long diagonal of the cell, in lattice constants.
    rotation_order : int
        Order of the rotation axis through every site; mirror planes pass through it as well.
    first_shell : float
        Radius in lattice constants that separates the nearest neighbours of a site from the next.
    """

    name: str
    sites: tuple[str, ...]
    offsets: tuple[float, ...]
    rotation_order: int
    first_shell: float

    @property
    def assignments(self) -> tuple[tuple[str, ...], ...]:
        """Every assignment of the kinds of site to the sublattices of an image."""
        return tuple(itertools.permutations(self.sites))

    def sites_around(
        self, lattice_constant: float, radius: float
    ) -> tuple[list[tuple[float, float]], list[str]]:
        """Sites of a perfect layer around a site of the first kind, nearest first.

        Parameters
        ----------
        lattice_constant, radius : float
            In Å.

        Returns
        -------
        positions : list of tuple
            (x, y) in Å.
        kinds : list of str
            The kind of each site.
        """
        reach = math.ceil(radius / lattice_constant * 2 / math.sqrt(3)) + 1
        found = []
        for i, j in itertools.product(range(-reach, reach + 1), repeat=2):
            for site, offset in zip(self.sites, self.offsets, strict=True):
                x = (i + j / 2) * lattice_constant
                y = (j * math.sqrt(3) / 2 + offset) * lattice_constant
                if math.hypot(x, y) <= radius:
                    found.append((math.hypot(x, y), x, y, site))
        found.sort()
        return [(x, y) for _, x, y, _ in found], [site for *_, site in found]


MONOLAYER_1H = StructureType(
    name="1H",
    sites=("metal", "chalcogen", "hollow"),
    offsets=(0.0, 1 / math.sqrt(3), -1 / math.sqrt(3)),
    rotation_order=3,
    first_shell=0.7,
)
"""The trigonal prismatic monolayer of the transition-metal dichalcogenides."""


@dataclass(frozen=True)
class Host:
    """A monolayer transition-metal dichalcogenide seen along its normal.

    Attributes
    ----------
    metal, chalcogen : str
        Chemical symbols.
    lattice_constant : float
        In-plane lattice constant in Å.
    chalcogen_separation : float
        Distance of the two chalcogen planes in Å.
    structure : StructureType
        Its sites and symmetry.

    References
    ----------
    Rasmussen and Thygesen, J. Phys. Chem. C 119, 13169 (2015), doi:10.1021/acs.jpcc.5b02950.
    """

    metal: str
    chalcogen: str
    lattice_constant: float
    chalcogen_separation: float
    structure: StructureType = MONOLAYER_1H

    @property
    def name(self) -> str:
        """Chemical formula."""
        return f"{self.metal}{self.chalcogen}2"


HOSTS = {
    host.name: host
    for host in (
        Host("Mo", "S", 3.18, 3.13),
        Host("Mo", "Se", 3.32, 3.34),
        Host("Mo", "Te", 3.55, 3.61),
        Host("W", "S", 3.19, 3.15),
        Host("W", "Se", 3.32, 3.36),
        Host("W", "Te", 3.55, 3.63),
        Host("Nb", "S", 3.36, 3.13),
        Host("Nb", "Se", 3.48, 3.37),
        Host("Ta", "S", 3.34, 3.13),
        Host("Ta", "Se", 3.48, 3.36),
        Host("V", "S", 3.17, 2.98),
        Host("V", "Se", 3.33, 3.20),
    )
}
"""The twelve host materials by their chemical formula."""

DOPANTS = {
    "Mo": ("Ti", "V", "Cr", "Mn", "Fe", "Nb", "W", "Re"),
    "W": ("Ti", "V", "Cr", "Mn", "Fe", "Nb", "Mo", "Re"),
    "Nb": ("Ti", "V", "Cr", "Fe", "Co", "Mo", "W", "Re"),
    "Ta": ("Ti", "V", "Cr", "Fe", "Nb", "Mo", "W", "Re"),
    "V": ("Ti", "Cr", "Mn", "Fe", "Co", "Nb", "Mo", "W"),
}
"""The eight dopants of each host metal: 12 hosts, 96 doped materials."""
