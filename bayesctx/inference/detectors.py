"""What is known of a micrograph: of the scan as a whole, and of each detector that recorded it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import xarray as xr

from ..checks import shorten
from ..evidence import Codoped, check_context
from ..files.electrons import Electrons
from .arrays import latent_names
from .inputs import SEVERAL

__all__ = ["OF_DETECTOR", "Rings", "check_rings", "detector_names"]

OF_DETECTOR = ("inner_collection_angle", "outer_collection_angle")


@dataclass(frozen=True, eq=False)
class Rings:
    """A checked context, with the detectors that a scan was recorded by.

    Attributes
    ----------
    shared : mapping
        What is known of the scan; the angles as well where there is one detector without a name.
    own : sequence of mapping
        Of each detector, what is known of the scan and of its angles.
    names : tuple of str
        Of the detectors; empty for an image without a dimension of them.
    order : tuple of int
        Detectors from low to high angles, as far as they are known to be in an order.
    electrons : Electrons, optional
        For each pixel, where the dose follows from them.
    """

    shared: Mapping[str, object]
    own: Sequence[Mapping[str, object]]
    names: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    electrons: Electrons | None = None

    def at(self, sampling: float) -> Rings:
        """Take pixels to be of a size.

        Parameters
        ----------
        sampling : float
            In Å.

        Returns
        -------
        Rings
            With the dose on such pixels where the electrons for each pixel are known.
        """
        if self.electrons is None:
            return self
        dose = {"dose": self.electrons.dose_on(sampling)}
        return replace(
            self, shared={**self.shared, **dose}, own=[{**own, **dose} for own in self.own]
        )

    def settle(self, sampling: float) -> Rings:
        """Take pixels to be of a size, and tell of what does not agree with it.

        Parameters
        ----------
        sampling : float
            In Å.

        Returns
        -------
        Rings
            As of ``at``; see ``Electrons.check`` for errors and warnings.
        """
        if self.electrons is not None:
            self.electrons.check(sampling)
        return self.at(sampling)

    def without(self, names: Collection[str]) -> Rings:
        """Leave some variables open.

        Parameters
        ----------
        names : collection of str
            Variables; with angles goes the order of the detectors.

        Returns
        -------
        Rings
            Without what is known of these. An undoped crystal stays one, and a co-doped one.
        """

        def left(known: Mapping[str, object]) -> dict[str, object]:
            return {
                n: v for n, v in known.items() if n not in names or isinstance(v, Codoped | None)
            }

        order = () if set(names) & set(OF_DETECTOR) else self.order
        shared, own = left(self.shared), list(map(left, self.own))
        electrons = None if "dose" in names else self.electrons
        return replace(self, shared=shared, own=own, order=order, electrons=electrons)

    def latent(self) -> tuple[str, ...]:
        """Name the variables that are inferred: angles where those of one detector are.

        Returns
        -------
        tuple of str
            In the order of the context.
        """
        open_angles = {n for own in self.own for n in latent_names(own)}
        return tuple(
            n for n in latent_names(self.shared) if n not in OF_DETECTOR or n in open_angles
        )

    def stated(self) -> dict[str, object]:
        """All that is known, as it was handed in.

        Returns
        -------
        dict
            The context, with the angles of the detectors by their names.
        """
        if not self.names:
            return dict(self.shared)
        found = dict(self.shared)
        found["detector"] = {
            name: {n: own[n] for n in OF_DETECTOR if n in own}
            for name, own in zip(self.names, self.own, strict=True)
        }
        if self.order:
            found["detector_order"] = [self.names[k] for k in self.order]
        return found


def detector_names(image: object) -> tuple[str, ...]:
    """Names of the detectors of a scan, by their coordinate or by their position.

    Parameters
    ----------
    image : object
        What was handed to ``infer``.

    Returns
    -------
    tuple of str
        Empty for an image without a dimension of detectors.

    Raises
    ------
    ValueError
        If two detectors have the same name.
    """
    if not isinstance(image, xr.DataArray) or image.dims != SEVERAL:
        return ()
    names = tuple(map(str, image["detector"].values.tolist()))
    if len(set(names)) < len(names):
        raise ValueError(
            f"detectors with different names were expected, got {', '.join(names)[:80]}; "
            "rename the coordinate detector"
        )
    return names


def check_rings(
    context: Mapping[str, object] | None,
    names: tuple[str, ...],
    domains: Mapping[str, tuple] | None = None,
    electrons: Electrons | None = None,
) -> Rings:
    """Check the context of an image whose detectors are named.

    Parameters
    ----------
    context : mapping or Dataset, optional
        See ``check_context``; of several detectors also ``detector``, a mapping of their names to
        mappings of their angles, and ``detector_order``, their names from low to high angles.
    names : tuple of str
        Of the detectors; empty for an image without a dimension of them.
    domains : mapping of str to tuple, optional
        Narrower domains: those of a model.
    electrons : Electrons, optional
        For each pixel, where the dose follows from them.

    Returns
    -------
    Rings
        Every value in one form.

    Raises
    ------
    TypeError, ValueError
        See ``check_context``; for detectors that the image does not have, for angles that are given
        of no detector, and for an order of fewer than two detectors.
    """
    given = dict(context) if isinstance(context, Mapping) else context
    if not names:
        _refuse_names(given)
        shared = check_context(given, domains)
        return Rings(shared, (shared,), electrons=electrons)
    given = given or {}
    angles = _check_angles(given.pop("detector", {}), names)
    order = _check_order(given.pop("detector_order", ()), names)
    lone = [n for n in OF_DETECTOR if n in given]
    if lone:
        raise ValueError(
            f"the angles of each detector were expected, got one {lone[0]} for "
            f"{', '.join(names)[:80]}; give detector={{{names[0]!r}: {{{lone[0]!r}: ...}}, ...}}"
        )
    shared = check_context(given, domains)
    own = [check_context({**given, **angles.get(name, {})}, domains) for name in names]
    return Rings(shared, own, names, order, electrons)


def _refuse_names(given: object) -> None:
    """Raise for detectors of an image that has no dimension of them."""
    for name in ("detector", "detector_order"):
        if isinstance(given, Mapping) and name in given:
            raise ValueError(
                f"an image with the dimension detector was expected with {name} in the context, "
                "got one without; name the dimensions (detector, y, x), or give "
                "inner_collection_angle and outer_collection_angle"
            )


def _check_angles(given: object, names: Sequence[str]) -> dict[str, Mapping[str, object]]:
    """Angles of the detectors that they are given of."""
    if not isinstance(given, Mapping) or not all(isinstance(v, Mapping) for v in given.values()):
        raise TypeError(
            "detector was expected as a mapping of names to mappings of angles, got "
            f"{shorten(given)}; for example {{{names[0]!r}: {{'inner_collection_angle': 60.0}}}}"
        )
    for name, angles in given.items():
        _check_name(name, names)
        for angle in angles:
            if angle not in OF_DETECTOR:
                raise ValueError(
                    f"{' and '.join(OF_DETECTOR)} were expected of detector {name!r}, got "
                    f"{shorten(angle)}; give what all detectors share beside detector"
                )
    return dict(given)


def _check_order(given: object, names: Sequence[str]) -> tuple[int, ...]:
    """Positions of the detectors from low to high angles."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(
            "detector_order was expected as a sequence of names from low to high angles, got "
            f"{shorten(given)}; for example {tuple(names)}"
        )
    for name in given:
        _check_name(name, names)
    if len(set(given)) < len(given) or len(given) == 1:
        raise ValueError(
            f"two or more different detectors were expected in detector_order, got "
            f"{shorten(tuple(given))}; leave it out if no order is known"
        )
    return tuple(names.index(name) for name in given)


def _check_name(name: object, names: Sequence[str]) -> None:
    """Raise for a detector that the image does not have."""
    if name not in names:
        close = difflib.get_close_matches(str(name), names, 1)
        hint = f"did you mean {close[0]!r}?" if close else "use the coordinate detector"
        raise ValueError(
            f"detectors among {', '.join(names)[:80]} were expected, got {shorten(name)}; {hint}"
        )
