"""What a lattice site can hold."""

from __future__ import annotations

from .crystal import HOSTS, Atoms
from .elements import CHALCOGENS

__all__ = ["DEFECTS", "SITES", "columns_of", "species_of"]

SITES = {
    "metal": ("M", "D_M", "V_M", "X_M", "X2_M", "adatom_M"),
    "chalcogen": ("X2", "V_X", "V_X2", "O_X", "Y_X", "M_X"),
    "hollow": ("hollow", "adatom_M"),
}
"""The defect classes that each of the three sites of the honeycomb can carry, the perfect one first."""

DEFECTS = (
    "M",
    "D_M",
    "V_M",
    "X_M",
    "X2_M",
    "X2",
    "V_X",
    "V_X2",
    "O_X",
    "Y_X",
    "M_X",
    "hollow",
    "adatom_M",
)
"""The thirteen classes of a lattice site, in the order of every ``defect_class`` coordinate."""

ADATOM_HEIGHT = 1.0
"""Height of an adatom above the outer chalcogen plane, in Å."""


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
        return tuple(
            c
            for e in elements
            for c in (((e, -half), (chalcogen, half)), ((chalcogen, -half), (e, half)))
        )

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
