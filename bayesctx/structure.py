"""Host crystals, dopants and defect classes as columns of atoms along the beam."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .context import METALS

__all__ = ["DEFECTS", "DOPANTS", "HOSTS", "METALS", "SITES", "Host", "columns_of", "dopants_of", "species_of"]

Atoms = tuple[tuple[str, float], ...]
"""A column: ``(element, z)`` pairs in order of the beam, z in Å along the beam, 0 in the metal plane."""

ATOMIC_NUMBERS = {
    "O": 8, "S": 16, "Ti": 22, "V": 23, "Cr": 24, "Mn": 25, "Fe": 26, "Co": 27,
    "Se": 34, "Nb": 41, "Mo": 42, "Te": 52, "Ta": 73, "W": 74, "Re": 75,
}  # fmt: skip

CHALCOGENS = ("S", "Se", "Te")

SITES = {
    "metal": ("M", "D_M", "V_M", "X_M", "X2_M", "adatom_M"),
    "chalcogen": ("X2", "V_X", "V_X2", "O_X", "Y_X", "M_X"),
    "hollow": ("hollow", "adatom_M"),
}
"""The defect classes that each of the three sites of the honeycomb can carry, the perfect one first."""

DEFECTS = ("M", "D_M", "V_M", "X_M", "X2_M", "X2", "V_X", "V_X2", "O_X", "Y_X", "M_X", "hollow", "adatom_M")
"""The thirteen classes of a lattice site, in the order of every ``defect_class`` coordinate."""

ADATOM_HEIGHT = 1.0
"""Height of an adatom above the outer chalcogen plane, in Å."""


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


def columns_of(defect: str, host: str, dopant: str) -> tuple[Atoms, ...]:
    """Return the columns of atoms that a defect class can stand for, all equally probable.

    Parameters
    ----------
    defect : str
        One of ``DEFECTS``.
    host : str
        A key of ``HOSTS``.
    dopant : str
        Chemical symbol of the metal on the metal site in class ``D_M``.

    Returns
    -------
    tuple of tuple
        Alternatives, each a column ``((element, z), ...)`` sorted along the beam, z in Å; the upper side of the layer
        (z < 0) faces the gun. An empty column is ``()``.

    Examples
    --------
    >>> columns_of("V_X", "MoS2", "W")
    ((('S', 1.565),), (('S', -1.565),))
    """
    material = HOSTS[host]
    metal, chalcogen = material.metal, material.chalcogen
    half = material.chalcogen_separation / 2
    others = tuple(x for x in CHALCOGENS if x != chalcogen)

    def half_replaced(*elements: str) -> tuple[Atoms, ...]:
        return tuple(c for e in elements for c in (((e, -half), (chalcogen, half)), ((chalcogen, -half), (e, half))))

    adatom = (metal, -half - ADATOM_HEIGHT)
    pair = ((chalcogen, -half), (chalcogen, half))
    return {
        "M": (((metal, 0.0),),),
        "D_M": (((dopant, 0.0),),),
        "V_M": ((),),
        "X_M": (((chalcogen, 0.0),),),
        "X2_M": (pair,),
        "X2": (pair,),
        "V_X": (((chalcogen, half),), ((chalcogen, -half),)),
        "V_X2": ((),),
        "O_X": half_replaced("O"),
        "Y_X": half_replaced(*others),
        "M_X": half_replaced(metal),
        "hollow": ((),),
        "adatom_M": ((adatom, (metal, 0.0)), (adatom,)),
    }[defect]


def species_of(column: Atoms) -> str:
    """Name the atoms of a column from the gun downwards, e.g. ``'Mo'``, ``'S2'``, ``'OS'``; the empty column is ``'-'``.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam.

    Returns
    -------
    str
        Chemical formula of the column.
    """
    elements = [element for element, _ in column]
    if len(elements) == 2 and elements[0] == elements[1]:
        return f"{elements[0]}2"
    return "".join(elements) or "-"


def honeycomb(lattice_constant: float, radius: float) -> tuple[list[tuple[float, float]], list[str]]:
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
                x, y = (i + j / 2) * lattice_constant, (j * math.sqrt(3) / 2 + offset) * lattice_constant
                if math.hypot(x, y) <= radius:
                    found.append((math.hypot(x, y), x, y, site))
    found.sort()
    return [(x, y) for _, x, y, _ in found], [site for *_, site in found]
