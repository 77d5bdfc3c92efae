"""A crystal with two dopants as a value of the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..checks import check_known, shorten
from ..crystal import METALS

__all__ = ["Codoped", "check_codoping"]

JOINED = "+"  # the two metals where only text can stand: in files and at the command line


@dataclass(frozen=True, repr=False)
class Codoped:
    """A co-doped crystal: every site of the class ``D_M`` holds one of two metals.

    A list of candidates means one of them in the whole crystal, this means both.

    Attributes
    ----------
    first, second : str
        Chemical symbols, in the order of ``crystal.METALS`` whatever the order in which they were
        given. As text they are joined by a plus sign.

    Raises
    ------
    TypeError
        If a metal is no name.
    ValueError
        If a metal is unknown, or both are the same.

    Examples
    --------
    >>> Codoped("V", "Ti")
    Codoped('Ti', 'V')
    >>> str(Codoped("V", "Ti"))
    'Ti+V'
    """

    first: str
    second: str

    def __post_init__(self) -> None:
        for metal in (self.first, self.second):
            if not isinstance(metal, str):
                raise TypeError(
                    "two names of metals were expected of a co-doped crystal, got "
                    f"{shorten(metal)}; for example Codoped('Ti', 'V')"
                )
            check_known(metal, "dopant of a co-doped crystal", METALS)
        if self.first == self.second:
            raise ValueError(
                "two different metals were expected of a co-doped crystal, got "
                f"{shorten(self.first)} twice; name one dopant by itself"
            )
        first, second = sorted(map(str, self.metals), key=METALS.index)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "second", second)

    @classmethod
    def parse(cls, text: str) -> Codoped:
        """Read a co-doped crystal from text.

        Parameters
        ----------
        text : str
            Such as ``str`` gives.

        Returns
        -------
        Codoped
            The crystal.

        Raises
        ------
        ValueError
            If there are not two metals, see ``Codoped``.
        """
        metals = [metal.strip() for metal in text.split(JOINED)]
        if len(metals) != 2:
            raise ValueError(
                f"two metals were expected of a co-doped crystal, got {shorten(text)}; for "
                f"example 'Ti{JOINED}V'"
            )
        return cls(*metals)

    @property
    def metals(self) -> tuple[str, str]:
        """Both metals."""
        return self.first, self.second

    def __str__(self) -> str:
        return JOINED.join(self.metals)

    def __repr__(self) -> str:
        return f"Codoped({', '.join(map(repr, self.metals))})"


def check_codoping(value: object, dopants: Mapping[str, tuple[str, ...]]) -> bool:
    """Check whether both dopants of a host are in the same crystal.

    Parameters
    ----------
    value : object
        What should be True or False.
    dopants : mapping of str to tuple of str
        Checked dopants of every host.

    Returns
    -------
    bool
        The value.

    Raises
    ------
    TypeError
        If it is no bool.
    ValueError
        If it is True and a host does not have two different dopants.
    """
    if not isinstance(value, bool):
        raise TypeError(
            f"is_codoped was expected as True or False, got {shorten(value)}; leave it out"
        )
    for host, names in dopants.items() if value else ():
        if len(names) != 2 or len(set(names)) < 2:
            raise ValueError(
                f"two different dopants of {host} were expected with is_codoped, got "
                f"{', '.join(names)}; name both metals of the crystal"
            )
    return value
