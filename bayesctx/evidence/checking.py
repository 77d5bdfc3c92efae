"""Checks of the context of an image: values are converted to one form or refused."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from numbers import Real

from ..checks import shorten
from ..context import ABERRATIONS, ANGLES, CONTEXT, Detector, Probe
from .agreement import check_agreement
from .shares import check_doping, check_shares
from .values import Value, check_value

__all__ = ["check_context", "check_imaging"]

LEAST_OPTICS = -sys.float_info.max  # of an aberration


def check_context(
    context: Mapping[str, object] | None, domains: Mapping[str, tuple] | None = None
) -> dict[str, Value | dict]:
    """Check the context of an image and convert its values to one form.

    Parameters
    ----------
    context : mapping or Dataset, optional
        Values by the names of ``CONTEXT``; other variables are inferred. A number or name is
        observed. A list, set or ``range`` gives candidates, equally probable; repeat one to give it
        more weight. A univariate distribution of Pyro or torch is soft evidence and is truncated to
        the domain. An array, Series or DataArray of one dimension holds one observed value per
        image. A tuple of numbers is refused, since it could be meant as a range. The dopant None
        (in files "none") is a crystal without one, ``Codoped("Ti", "V")`` (in files "Ti+V") one
        with both, of which every site of the class ``D_M`` holds either. ``abundance`` is a mapping
        of defect class to its share of the sites of its own kind, see Notes.
    domains : mapping of str to tuple, optional
        Narrower domains: those of a model.

    Returns
    -------
    dict
        Name to value: ``float`` or ``str``, ``list`` of candidates, ``ndarray`` of shape (image,),
        or ``Distribution``; ``dopant`` may be None or ``Codoped``, ``abundance`` is a ``dict``.
        Checking it again does not change it.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        For an unknown name, NaN, a value outside of the domain, a distribution with less than 1 %
        of its mass inside, or values that exclude each other.

    Warns
    -----
    UserWarning
        If a number exceeds a bound by at most 25 % (dose) or 5 % (others but sampling), in which
        case the bound is used. If more than 1 % of the mass of a distribution is cut off.

    Notes
    -----
    An observed ``sampling`` is taken to have the calibration error of a microscope, 2 % rms
    (``context.CALIBRATION_ERROR``).

    In ``abundance`` a share of 0 excludes a class, a number is a known share, (low, high) a uniform
    distribution, and a distribution is soft evidence; classes that are not named keep their prior
    among what is left. ``adatom_M`` stands on metal and on hollow sites and has its share on each.
    An undoped crystal, the dopant None, and a share of 0 for ``D_M`` are the same statement.

    Examples
    --------
    >>> check_context({"host": "WSe2", "beam_energy": 80})
    Traceback (most recent call last):
        ...
    ValueError: beam_energy [eV] was expected between 30000 and 300000, got 80; 80 keV is 80000 eV
    """
    return _check(context, domains or {}, at_bounds=True)


def check_imaging(probe: Probe, detector: Detector) -> tuple[Probe, Detector]:
    """Check a probe and a detector of one image against what the physics covers.

    Parameters
    ----------
    probe : Probe
        Numbers.
    detector : Detector
        Numbers.

    Returns
    -------
    probe : Probe
        The same with every value a ``float``.
    detector : Detector
        Likewise.

    Raises
    ------
    TypeError
        If an argument is not of its type, or a value is not one number.
    ValueError
        See ``check_context``; a value beyond the domain is always refused. For an unknown
        aberration, and for a width that is negative or not finite.
    """
    for record, kind in ((probe, Probe), (detector, Detector)):
        if not isinstance(record, kind):
            raise TypeError(
                f"a {kind.__name__} was expected, got {shorten(record)}; "
                f"use bayesctx.{kind.__name__}"
            )
    values = (probe.beam_energy, probe.convergence_semiangle, *detector.edges)
    names = ("beam_energy", *ANGLES)
    checked = _check(dict(zip(names, values, strict=True)), {}, at_bounds=False)
    for name, value in checked.items():
        if not isinstance(value, float):
            raise TypeError(
                f"{CONTEXT[name].label} was expected as one number, got {shorten(value)}; "
                "compute one image for each"
            )
    if not isinstance(probe.aberrations, Mapping):
        raise TypeError(
            "aberrations were expected as a mapping such as {'C10': -20.0}, got "
            f"{shorten(probe.aberrations)}; {{}} is none"
        )
    unknown = [name for name in probe.aberrations if name not in ABERRATIONS]
    if unknown:
        raise ValueError(
            f"aberrations among {', '.join(ABERRATIONS)} were expected, got {shorten(unknown[0])}; "
            "use these names (C10 is minus the defocus)"
        )
    aberrations = {n: _check_optics(n, v, LEAST_OPTICS) for n, v in probe.aberrations.items()}
    widths = (_check_optics(n, getattr(probe, n), 0.0) for n in ("source_size", "focal_spread"))
    energy, angle, *edges = checked.values()
    return Probe(energy, angle, aberrations, *widths), Detector(*edges)


def _check_optics(name: str, value: object, least: float) -> float:
    """An aberration or a width of the probe as a finite number."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    if not (is_number and least <= number <= -LEAST_OPTICS):
        unit, bound = "rad" if name.startswith("phi") else "Å", ">= 0" if least == 0 else "finite"
        raise ValueError(
            f"{name} [{unit}] was expected as one number, {bound}, got {shorten(value)}; "
            "0 leaves it out"
        )
    return float(number)


def _check(
    context: Mapping[str, object] | None, domains: Mapping[str, tuple], at_bounds: bool
) -> dict[str, Value | dict]:
    """Check every value by itself, then all together."""
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise TypeError(
            "the context was expected as a mapping such as {'host': 'WSe2'}, got "
            f"{type(context).__name__}; {{}} infers all"
        )
    checked = {}
    for name, value in context.items():
        if isinstance(name, str) and name == "abundance":
            checked[name] = check_shares(value)
            continue
        if not isinstance(name, str) or name not in CONTEXT:
            close = difflib.get_close_matches(shorten(name), [*CONTEXT, "abundance"], 1)
            hint = f"did you mean {close[0]!r}?" if close else "leave a variable out to infer it"
            known = ", ".join([v.label for v in CONTEXT.values()] + ["abundance"])
            raise ValueError(f"unknown context variable {shorten(name)}; known are {known}; {hint}")
        variable = CONTEXT[name]
        checked[name] = check_value(
            variable, value, domains.get(name, variable.domain), variable.margin * at_bounds
        )
    check_agreement(checked)
    return check_doping(checked)
