"""What a lattice site can hold: one table of the defect classes and their columns of atoms.

The table defines four terms. A *class* is what is inferred, for example ``V_X``. A *species* is
one column of atoms of a class: ``V_X`` has two, with the upper or the lower chalcogen missing. A
*hypothesis* is a set of species with the same image, that is, mirror images of each other in the
plane of the layer. An *outcome* is a class together with the element on the site: the classes
without the dopant, then the class of the dopant once for every dopant that is considered.
"""

from __future__ import annotations

from dataclasses import dataclass

from .crystal import CHALCOGENS, HOSTS, MONOLAYER_1H

__all__ = [
    "CLASSES",
    "CODOPED_SPECIES",
    "DEFECTS",
    "DOPED",
    "DOPED_SPECIES",
    "FIRST_SITE",
    "HYPOTHESES",
    "HYPOTHESIS_OF_SPECIES",
    "SITES",
    "SPECIES",
    "UNDOPED",
    "Atoms",
    "DefectClass",
    "Species",
    "columns_of",
    "formula_of",
]

Atoms = tuple[tuple[str, float], ...]
"""A column: ``(element, z)`` pairs in order of the beam, z in Å along it, 0 in the metal plane."""

Slots = tuple[tuple[str, str], ...]
"""A column in any host: pairs of the role of an element, such as "metal", and its plane."""

ADATOM_HEIGHT = 1.0
"""Height of an adatom above the outer chalcogen plane, in Å."""

# planes in order of the beam; the upper side of the layer faces the gun
ABOVE, UPPER, MIDDLE, LOWER = "above", "upper", "middle", "lower"
MIRRORED = {UPPER: LOWER, LOWER: UPPER}


@dataclass(frozen=True)
class DefectClass:
    """A class of what a lattice site can hold.

    Attributes
    ----------
    name : str
        Short name, used in results.
    title : str
        The class in words.
    columns : tuple of (str, tuple)
        Kind of site and column of atoms of every species of the class, all equally probable.
    """

    name: str
    title: str
    columns: tuple[tuple[str, Slots], ...]


def _on(site: str, *columns: Slots) -> tuple[tuple[str, Slots], ...]:
    """Columns that stand on sites of one kind."""
    return tuple((site, column) for column in columns)


def _half_replaced(*roles: str) -> tuple[Slots, ...]:
    """Pairs of which one chalcogen, the upper or the lower one, is replaced."""
    x = "chalcogen"
    return tuple(c for r in roles for c in (((r, UPPER), (x, LOWER)), ((x, UPPER), (r, LOWER))))


_PAIR = (("chalcogen", UPPER), ("chalcogen", LOWER))
_ADATOM = ("metal", ABOVE)

CLASSES = (
    DefectClass("M", "host metal", _on("metal", (("metal", MIDDLE),))),
    DefectClass("D_M", "dopant on the metal site", _on("metal", (("dopant", MIDDLE),))),
    DefectClass("V_M", "metal vacancy", _on("metal", ())),
    DefectClass("X_M", "one chalcogen on the metal site", _on("metal", (("chalcogen", MIDDLE),))),
    DefectClass("X2_M", "two chalcogens on the metal site", _on("metal", _PAIR)),
    DefectClass("X2", "both chalcogens", _on("chalcogen", _PAIR)),
    DefectClass(
        "V_X",
        "vacancy of one chalcogen",
        _on("chalcogen", (("chalcogen", LOWER),), (("chalcogen", UPPER),)),
    ),
    DefectClass("V_X2", "vacancy of both chalcogens", _on("chalcogen", ())),
    DefectClass("O_X", "oxygen for one chalcogen", _on("chalcogen", *_half_replaced("oxygen"))),
    DefectClass(
        "Y_X",
        "another chalcogen for one chalcogen",
        _on("chalcogen", *_half_replaced("other chalcogen", "third chalcogen")),
    ),
    DefectClass("M_X", "metal for one chalcogen", _on("chalcogen", *_half_replaced("metal"))),
    DefectClass("hollow", "empty hollow site", _on("hollow", ())),
    DefectClass(
        "adatom_M",
        "metal adatom on a metal column or in the hollow",
        _on("metal", (_ADATOM, ("metal", MIDDLE))) + _on("hollow", (_ADATOM,)),
    ),
)
"""The thirteen classes of a lattice site; the first on a kind of site is the perfect crystal."""


@dataclass(frozen=True)
class Species:
    """One column of atoms of a class, in any host.

    Attributes
    ----------
    defect : str
        Name of the class.
    site : str
        Kind of site of the column.
    slots : tuple of (str, str)
        Role of every element and the plane that it lies in, in order of the beam.
    """

    defect: str
    site: str
    slots: Slots

    @property
    def holds_dopant(self) -> bool:
        """Whether the dopant is in the column."""
        return any(role == "dopant" for role, _ in self.slots)

    def is_mirror_of(self, other: Species) -> bool:
        """Whether the column is the other one reflected in the plane of the layer, or the same.

        Parameters
        ----------
        other : Species
            Of any class.

        Returns
        -------
        bool
            True for columns with the same image; they are one hypothesis.
        """
        reflected = {(role, MIRRORED.get(plane, plane)) for role, plane in other.slots}
        same_class = (self.defect, self.site) == (other.defect, other.site)
        return same_class and set(self.slots) in (reflected, set(other.slots))

    def column(self, host: str, dopant: str) -> Atoms:
        """Atoms of the column in a material.

        Parameters
        ----------
        host : str
            A key of ``HOSTS``.
        dopant : str
            Chemical symbol.

        Returns
        -------
        tuple of (str, float)
            Element and z in Å, in order of the beam.
        """
        material = HOSTS[host]
        half = material.chalcogen_separation / 2
        other, third = (x for x in CHALCOGENS if x != material.chalcogen)
        element = {
            "metal": material.metal,
            "chalcogen": material.chalcogen,
            "dopant": dopant,
            "oxygen": "O",
            "other chalcogen": other,
            "third chalcogen": third,
        }
        z = {ABOVE: -half - ADATOM_HEIGHT, UPPER: -half, MIDDLE: 0.0, LOWER: half}
        return tuple((element[role], z[plane]) for role, plane in self.slots)


DEFECTS = tuple(c.name for c in CLASSES)
"""Names of the classes, in the order of every ``defect_class`` coordinate."""

FIRST_SITE = {c.name: c.columns[0][0] for c in CLASSES}
"""Kind of site on which the abundance of a class is its share: the first that can hold it."""

SITES = {
    site: tuple(c.name for c in CLASSES if any(site == s for s, _ in c.columns))
    for site in MONOLAYER_1H.sites
}
"""The classes that each kind of site can hold, that of the perfect crystal first."""

SPECIES = tuple(Species(c.name, site, slots) for c in CLASSES for site, slots in c.columns)
"""Every species; its index names a column of atoms in a material."""

DOPED_SPECIES = next(i for i, s in enumerate(SPECIES) if s.holds_dopant)
"""Index of the species that holds the dopant."""

CODOPED_SPECIES = len(SPECIES)
"""Index of a species after all others: that with the second dopant of a co-doped crystal."""

HYPOTHESES = tuple(s for i, s in enumerate(SPECIES) if not any(map(s.is_mirror_of, SPECIES[:i])))
"""The first species of each hypothesis."""

HYPOTHESIS_OF_SPECIES = tuple(
    next(i for i, h in enumerate(HYPOTHESES) if h.is_mirror_of(s)) for s in SPECIES
)
"""Index into ``HYPOTHESES`` of every species."""

DOPED = next(c.name for c in CLASSES if any(r == "dopant" for _, s in c.columns for r, _ in s))
"""The class that holds the dopant."""

UNDOPED = tuple(d for d in DEFECTS if d != DOPED)
"""The classes without the dopant: the first outcomes of a site."""


def columns_of(defect: str, host: str, dopant: str) -> tuple[Atoms, ...]:
    """Return the columns of atoms of a defect class, which are equally probable.

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
        Alternatives, each a column ``((element, z), ...)`` sorted along the beam, z in Å; the upper
        side of the layer (z < 0) faces the gun. An empty column is ``()``.

    Examples
    --------
    >>> columns_of("V_X", "MoS2", "W")
    ((('S', 1.565),), (('S', -1.565),))
    """
    return tuple(s.column(host, dopant) for s in SPECIES if s.defect == defect)


def formula_of(column: Atoms) -> str:
    """Chemical formula of a column.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam.

    Returns
    -------
    str
        Elements from the gun downwards, such as ``'Mo'``, ``'S2'`` or ``'OS'``; ``'-'`` if empty.
    """
    elements = [element for element, _ in column]
    if len(elements) == 2 and elements[0] == elements[1]:
        return f"{elements[0]}2"
    return "".join(elements) or "-"
