"""What inference needs of a model and of its tabulated likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ..prior import Prior
from .table import Materials

__all__ = ["PatchModel", "Table"]


class Table(Protocol):
    """Likelihood of patches for every outcome, host and draw of the context."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes (*batch, draw, host, ...) of the table."""

    def density(self, features: Tensor, *, by_hypothesis: bool = False) -> tuple[Tensor, Tensor]:
        """Density of patches relative to its peak.

        Parameters
        ----------
        features : Tensor, shape (*batch, patch, feature)
            From ``PatchModel.encode``.
        by_hypothesis : bool
            Keep the hypotheses of a class apart; each is times its share of the class.

        Returns
        -------
        density : Tensor, shape (*batch, patch, draw, host, outcome or hypothesis)
            Density over exp(peak).
        peak : Tensor, shape (*batch, patch)
            Log of the largest density.
        """

    def log_prob(self, features: Tensor) -> Tensor:
        """Log density of patches.

        Parameters
        ----------
        features : Tensor, shape (*batch, patch, feature)
            From ``PatchModel.encode``.

        Returns
        -------
        Tensor, shape (*batch, patch, draw, host, outcome)
            In nats.
        """

    def __getitem__(self, index: object) -> Table:
        """Select by the leading dimensions."""


class PatchModel(Protocol):
    """A likelihood of patches, with the prior of their context, defects and nuisances.

    ``DefectModel`` is the neural one, ``ExactModel`` the simulator itself.

    Attributes
    ----------
    prior : Prior
        Of materials, conditions, defects and nuisances, and the pixels of a patch.
    card : mapping
        Limits of the warnings by name; empty where nothing was fitted.
    shares_context : bool
        Whether several patches may belong to one image and share its context.
    """

    prior: Prior
    card: Mapping[str, object]
    shares_context: bool

    @property
    def domains(self) -> dict[str, tuple]:
        """Smallest and largest value of every continuous variable that the likelihood covers."""

    @property
    def correlation(self) -> float:
        """Correlation of the evidence of patches of one image about its context."""

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the features of patches, whose density the likelihood is.

        Parameters
        ----------
        patches : Tensor, shape (patch, y, x)
            Intensities.

        Returns
        -------
        features : Tensor, shape (patch, feature)
            Contrast features, or the pixels themselves.
        surprise : Tensor, shape (patch,), or None
            Log density ratio of outliers to patches of the prior, in nats.
        """

    def tabulate(self, context: Mapping[str, Tensor], materials: Materials) -> Table:
        """Tabulate the likelihood for draws of the context.

        Parameters
        ----------
        context : mapping of str to Tensor, shape (*batch, draw)
            By the names of ``prior.CONTINUOUS``.
        materials : Materials
            Hosts and dopants to enumerate.

        Returns
        -------
        Table
            Likelihood of every outcome.
        """

    def frozen(self) -> PatchModel:
        """Return the model in evaluation mode; the model itself is not changed.

        Returns
        -------
        PatchModel
            The same or a copy.
        """

    def hash(self) -> str:
        """Return a checksum of everything that the likelihood depends on.

        Returns
        -------
        str
            Stored in every result.
        """
