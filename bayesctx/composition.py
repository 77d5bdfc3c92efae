"""Checks of the conditions, materials and abundances of a prior."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch.distributions import Distribution

from .abundance import Abundance
from .checks import (
    check_keys,
    check_known,
    check_mapping,
    check_number,
    check_sequence,
    check_whole_number,
    shorten,
)
from .context import ADF_RULE, CONTEXT, Detector, is_annular_dark_field
from .crystal import DOPANTS, HOSTS, METALS
from .defects import DEFECTS, DOPED, SITES
from .distributions import check_value, support
from .evidence import Codoped, check_shares

__all__ = [
    "CONTINUOUS",
    "DIRICHLET_ALPHA",
    "as_tuple",
    "check_abundance",
    "check_alpha",
    "check_conditions",
    "check_defects",
    "check_materials",
    "check_pixels",
    "choose_classes",
    "choose_materials",
]

CONTINUOUS = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)
"""The continuous variables of the context, in the order of every array over them."""

NUM_PIXELS = (8, 128)
LARGEST_PATCH = 18.5  # Å, the periodic cell in which a patch is simulated


def check_conditions(values: object) -> tuple[dict[str, object], ...]:
    """Check alternative imaging conditions.

    Parameters
    ----------
    values : object
        What should be a tuple of mappings with all names of ``CONTINUOUS``.

    Returns
    -------
    tuple of dict
        Of ``float``, ``tuple`` of candidates or ``Distribution`` by name.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is missing or unknown, a value is outside of the domain of ``CONTEXT``, or the
        detector cannot lie outside of the probe's cone.
    """
    checked = []
    for condition in check_sequence(values, "conditions"):
        known = {
            n: check_value(v, CONTEXT[n].label, CONTEXT[n].domain)
            for n, v in check_keys(condition, "condition variable", CONTINUOUS).items()
        }
        convergence, inner, outer = (support(known[n]) for n in CONTINUOUS[1:4])
        # the smallest inner angle outside of the smallest cone
        nearest = min(max(inner[0], convergence[0]), inner[1])
        if not is_annular_dark_field(convergence[0], Detector(nearest, outer[1])):
            raise ValueError(f"{ADF_RULE} was expected, got {known}; correct the angles")
        checked.append(known)
    return tuple(checked)


def as_tuple(value: object) -> tuple:
    """Values that a variable can take.

    Parameters
    ----------
    value : object
        An observed value, candidates, a co-doped crystal, or None.

    Returns
    -------
    tuple
        The values; both dopants of a co-doped crystal; empty for None.
    """
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, Codoped):
        return value.metals
    return () if value is None else (value,)


DIRICHLET_ALPHA = {
    "M": 15.0, "D_M": 0.3, "V_M": 0.15, "X_M": 0.1, "X2_M": 0.1, "X2": 15.0, "V_X": 0.7,
    "V_X2": 0.2, "O_X": 0.3, "Y_X": 0.2, "M_X": 0.1, "hollow": 15.0, "adatom_M": 0.1,
}  # fmt: skip
"""Parameters of the Dirichlet distribution of the abundance of the classes in a crystal.

Real abundances run over three decades, so the parameters of defects are below one: the share of a
dopant has its median at .5 % and 90 % of its mass between 2e-6 and 9 %, that of V_X at 2.6 % and
between .08 and 14 %.
"""


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
        If a class is missing or unknown, a number is negative, or the numbers of all classes of a
        kind of site are zero.
    """
    check_keys(values, "defect in dirichlet_alpha", DEFECTS)
    checked = {d: check_number(values[d], f"dirichlet_alpha of {d}", (0.0, 1e6)) for d in DEFECTS}
    for site, classes in SITES.items():
        if not any(checked[d] for d in classes):
            raise ValueError(
                f"dirichlet_alpha above zero was expected for one of {', '.join(classes)}, the "
                f"classes of a {site} site, all are zero; increase one"
            )
    return checked


def check_pixels(sampling: object, num_pixels: object) -> dict[str, object]:
    """Check the pixels of a patch.

    Parameters
    ----------
    sampling : object
        What should be the size of a pixel in Å.
    num_pixels : object
        What should be their number along each side.

    Returns
    -------
    dict
        Both, by name.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If such a patch cannot be simulated.
    """
    sampling = check_number(sampling, CONTEXT["sampling"].label, CONTEXT["sampling"].domain)
    num_pixels = check_whole_number("num_pixels", num_pixels, *NUM_PIXELS)
    if num_pixels * sampling > LARGEST_PATCH:
        raise ValueError(
            f"a patch of at most {LARGEST_PATCH} Å was expected, got {num_pixels} pixels of "
            f"{sampling:g} Å; choose fewer"
        )
    return {"sampling": sampling, "num_pixels": num_pixels}


def check_abundance(values: object, alpha: Mapping[str, float]) -> dict[str, float | Distribution]:
    """Check what a prior states of the share of classes.

    Parameters
    ----------
    values : object
        What should be a mapping of classes to a number or a distribution.
    alpha : mapping of str to float
        Checked parameters for the other classes.

    Returns
    -------
    dict of str to float or Distribution
        In the order of ``DEFECTS``.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a class is unknown, or shares are zero or cannot be, see ``evidence.check_shares``.
    """
    checked = check_shares(values)
    zero = [d for d, v in checked.items() if v == 0]
    if zero:
        raise ValueError(
            f"shares above 0 were expected in the abundance of a prior, got 0 for {zero[0]}; set "
            "its dirichlet_alpha to 0, or use given()"
        )
    Abundance.of(alpha, checked)
    return checked


def choose_classes(
    defects: tuple[str, ...],
    alpha: Mapping[str, float],
    shares: Mapping[str, float | Distribution],
    known: Mapping[str, object],
) -> dict[str, object]:
    """Choose the classes that agree with the context of an image, and their abundances.

    Parameters
    ----------
    defects : tuple of str
        Classes of the central site of a patch.
    alpha : mapping of str to float
        Dirichlet parameters of the abundances.
    shares : mapping of str to float or Distribution
        What the prior states of the shares of some classes.
    known : mapping
        A checked context: ``abundance``, and the dopant None, which excludes its class.

    Returns
    -------
    dict
        ``defects`` without classes of share 0, ``dirichlet_alpha`` with 0 for them, and
        ``abundance`` with the other shares; empty where nothing is known of the abundances.

    Raises
    ------
    ValueError
        If no class is left for the central site, or the shares contradict each other.
    """
    given = dict(known.get("abundance", {}))
    if "dopant" in known and known["dopant"] is None:
        given[DOPED] = 0.0
    if not given:
        return {}
    together = check_shares({**shares, **given})
    zero = [d for d, v in together.items() if v == 0]
    left = tuple(d for d in defects if d not in zero)
    if not left:
        raise ValueError(
            f"a share above 0 was expected for one of {', '.join(defects)}, the classes of the "
            "prior, got 0 for all; leave one out"
        )
    changed = check_alpha({d: 0.0 if d in zero else a for d, a in alpha.items()})
    shares = check_abundance({d: v for d, v in together.items() if d not in zero}, changed)
    return {"defects": left, "dirichlet_alpha": changed, "abundance": shares}


def choose_materials(
    hosts: tuple[str, ...], dopants: Mapping[str, tuple[str, ...]], known: Mapping[str, object]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Choose the materials that agree with the context of an image.

    Parameters
    ----------
    hosts : tuple of str
        Hosts of a prior.
    dopants : mapping of str to tuple of str
        Dopants of every host.
    known : mapping
        A checked context. With the host known the dopant may be any other metal, also one that
        the prior does not have for this host. Of an undoped crystal, the dopant None, one dopant of
        each host remains, which stands for nothing. A co-doped crystal needs both of its metals.

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
    least = len(asked) if isinstance(known.get("dopant"), Codoped) else 1
    chosen = {}
    for host in allowed_hosts:
        usual = dopants.get(host, DOPANTS[HOSTS[host].metal])
        allowed = tuple(d for d in asked if d in usual) if asked else usual
        if asked and len(allowed) < least and "host" in known:
            allowed = tuple(d for d in asked if d != HOSTS[host].metal)
        if len(allowed) >= least:
            is_undoped = "dopant" in known and known["dopant"] is None
            chosen[host] = allowed[:1] if is_undoped else allowed
    found = tuple(h for h in allowed_hosts if h in chosen)
    if not found:
        what, verb = ("a dopant", "was") if least == 1 else ("two dopants", "were")
        raise ValueError(
            f"{what} of one of the hosts {', '.join(hosts)} {verb} expected, got {asked}; "
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
