"""Composition of a prior: hosts, dopants, classes of defects and their abundance."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .checks import check_keys, check_known, check_mapping, check_number, check_sequence, shorten
from .conditions import as_tuple
from .crystal import DOPANTS, HOSTS
from .defects import DEFECTS, SITES
from .elements import METALS

__all__ = [
    "DIRICHLET_ALPHA",
    "check_alpha",
    "check_defects",
    "check_materials",
    "choose_materials",
]

DIRICHLET_ALPHA = {
    "M": 20.0, "D_M": 1.5, "V_M": 0.3, "X_M": 0.3, "X2_M": 0.3, "X2": 20.0, "V_X": 2.0,
    "V_X2": 0.4, "O_X": 0.8, "Y_X": 0.4, "M_X": 0.3, "hollow": 20.0, "adatom_M": 0.3,
}  # fmt: skip
"""Parameters of the Dirichlet distribution of the abundance of the classes in a crystal."""


def check_materials(
    hosts: object, dopants: object
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Check hosts and their dopants.

    Parameters
    ----------
    hosts : object
        What should be a tuple of names of ``HOSTS``.
    dopants : object
        What should be a mapping of every host to a tuple of metals.

    Returns
    -------
    hosts : tuple of str
        The hosts.
    dopants : dict of str to tuple of str
        The dopants of every host.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is unknown, a host has no dopant, or its own metal as one.
    """
    hosts = _check_names(hosts, "host", HOSTS)
    checked = {}
    for host, names in check_mapping(dopants, "dopants").items():
        check_known(host, "host", HOSTS)
        checked[host] = _check_names(names, "dopant", METALS)
        if HOSTS[host].metal in checked[host]:
            raise ValueError(
                f"dopants of {host} other than its own metal were expected, got {checked[host]}; "
                f"remove {HOSTS[host].metal}"
            )
    missing = [host for host in hosts if host not in checked]
    if missing:
        raise ValueError(f"dopants of every host were expected, {missing[0]} has none; add them")
    return hosts, checked


def check_defects(values: object) -> tuple[str, ...]:
    """Check the classes of the central site of a patch.

    Parameters
    ----------
    values : object
        What should be a tuple of names of ``DEFECTS``.

    Returns
    -------
    tuple of str
        The classes.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is unknown or occurs twice.
    """
    names = _check_names(values, "defect", DEFECTS)
    if len(set(names)) < len(names):
        raise ValueError(f"every defect was expected once, got {', '.join(names)}; remove repeats")
    return names


def check_alpha(values: object) -> dict[str, float]:
    """Check the Dirichlet parameters of the abundance of the classes.

    Parameters
    ----------
    values : object
        What should be a mapping of every class of ``DEFECTS`` to a number.

    Returns
    -------
    dict of str to float
        The parameters.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a class is missing or unknown, a number negative, or all that a site can hold are zero.
    """
    check_keys(values, "defect in dirichlet_alpha", DEFECTS)
    checked = {d: check_number(values[d], f"dirichlet_alpha of {d}", (0.0, 1e6)) for d in DEFECTS}
    for site, classes in SITES.items():
        if not any(checked[d] for d in classes):
            raise ValueError(
                f"dirichlet_alpha above zero was expected for one of {', '.join(classes)}, which a "
                f"{site} site can hold, all are zero; raise one"
            )
    return checked


def choose_materials(
    hosts: tuple[str, ...], dopants: Mapping[str, tuple[str, ...]], known: Mapping[str, object]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Choose the materials that agree with what is known of an image.

    Parameters
    ----------
    hosts : tuple of str
        Hosts of a prior.
    dopants : mapping of str to tuple of str
        Dopants of every host.
    known : mapping
        A checked context. A host that it names may have a dopant that is new to it.

    Returns
    -------
    hosts : tuple of str
        Those that agree.
    dopants : dict of str to tuple of str
        Likewise.

    Raises
    ------
    ValueError
        If there is none.
    """
    allowed_hosts = as_tuple(known.get("host")) or hosts
    asked = as_tuple(known.get("dopant"))
    chosen = {}
    for host in allowed_hosts:
        usual = dopants.get(host, DOPANTS[HOSTS[host].metal])
        allowed = tuple(d for d in asked if d in usual) if asked else usual
        if asked and not allowed and "host" in known:
            allowed = tuple(d for d in asked if d != HOSTS[host].metal)
        if allowed:
            chosen[host] = allowed
    found = tuple(h for h in allowed_hosts if h in chosen)
    if not found:
        raise ValueError(
            f"a dopant of one of the hosts {', '.join(hosts)} was expected, got {asked}; "
            "name the host as well"
        )
    return found, chosen


def _check_names(values: object, what: str, known: Collection[str]) -> tuple[str, ...]:
    """A tuple of names that are known."""
    names = check_sequence(values, f"{what}s")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name of a {what} was expected, got {shorten(name)}; correct it")
        check_known(name, what, known)
    return names
