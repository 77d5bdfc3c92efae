"""The exact model: the likelihood of the simulator itself, for patches of different images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor
from tqdm import tqdm

from ..defects import HYPOTHESIS_OF_SPECIES, SPECIES
from ..distributions import quantile
from ..model import NUM_PLAIN, Materials, add_alternatives, class_members
from ..prior import CONTINUOUS, Prior, limit_prior
from ..storage import warn
from .density import FREE, Box, Crystal, held_nuisances
from .importance import evidence

__all__ = ["ExactModel", "ExactTable", "columns_of_outcomes", "mean_of_alternatives"]

LOW_ESS = 5.0  # effective draws below which a warning is given


class ExactModel:
    """Likelihood of the simulator itself, with its nuisances integrated out numerically.

    ``infer`` accepts it instead of a ``DefectModel``. It needs no training, takes some tenths of a
    second per patch, host and imaging condition, and serves as the reference for the accuracy of
    the neural likelihood. It covers one defect in a perfect crystal with few nuisances.

    Parameters
    ----------
    prior : Prior, optional
        Of perfect crystals, with numbers for all nuisances but rotation, offset, source size,
        background, gain and dark level. Default: ``limit_prior()``.
    num_draws : int
        Draws of the importance sampling for every column.
    seed : int
        Seed of the draws.
    progress : bool
        Show a progress bar over the images.

    Raises
    ------
    ValueError
        If the prior has nuisances that cannot be integrated out.

    Examples
    --------
    >>> import bayesctx as bc
    >>> patches = bc.simulate(bc.limit_prior(), 2, seed=0)
    >>> energy_and_dose, angles = ["beam_energy", "dose"], list(bc.context.ANGLES[1:])
    >>> known = patches[["host", "dopant", *energy_and_dose, *angles]]
    >>> result = bc.infer(patches.intensity, known, bc.ExactModel())
    >>> result["class_posterior"].defect.sizes["defect_class"]
    13
    """

    shares_context = False
    """Whether several patches may belong to one image: no, since they would share nuisances."""

    def __init__(
        self,
        prior: Prior | None = None,
        *,
        num_draws: int = 128,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.prior = limit_prior() if prior is None else prior
        self.num_draws, self.seed, self.progress = num_draws, seed, progress
        held_nuisances(self.prior)
        self.box = _box(self.prior)
        self.card: dict[str, object] = {}

    @property
    def domains(self) -> dict[str, tuple]:
        """Smallest and largest value of every continuous variable of the context."""
        return {name: self.prior.domain(name) for name in CONTINUOUS}

    @property
    def correlation(self) -> float:
        """Correlation of the evidence of patches: zero, since no two are of one image."""
        return 0.0

    def frozen(self) -> ExactModel:
        """Return the model itself: it has no training mode.

        Returns
        -------
        ExactModel
            The same.
        """
        return self

    def encode(self, patches: Tensor) -> tuple[Tensor, None]:
        """Return the pixels of patches as their features; there is no detection of outliers.

        Parameters
        ----------
        patches : Tensor, shape (patch, y, x)
            Intensities.

        Returns
        -------
        pixels : Tensor, shape (patch, pixel)
            The intensities.
        surprise : None
            Not computed.
        """
        return patches.flatten(-2), None

    def tabulate(self, context: Mapping[str, Tensor], materials: Materials) -> ExactTable:
        """Return the likelihood for draws of the context.

        Parameters
        ----------
        context : mapping of str to Tensor, shape (batch, draw)
            By the names of ``prior.CONTINUOUS``.
        materials : Materials, shapes (batch, host)
            Hosts and dopants to enumerate.

        Returns
        -------
        ExactTable
            Evaluated when ``log_prob`` or ``density`` is called.
        """
        return ExactTable(self, context, materials)

    def hash(self) -> str:
        """Return the first sixteen hexadecimal digits of the SHA-256 of the prior and the settings.

        Returns
        -------
        str
            Names the model in every result.
        """
        settings = [self.prior.to_dict(), self.num_draws, self.seed]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


class ExactTable:
    """Likelihood of every outcome of a site, in every host and for every draw of the context.

    Parameters
    ----------
    model : ExactModel
        Gives prior and settings.
    context : mapping of str to Tensor, shape (batch, draw)
        By the names of ``prior.CONTINUOUS``.
    materials : Materials, shapes (batch, host)
        Hosts and dopants.
    """

    def __init__(
        self, model: ExactModel, context: Mapping[str, Tensor], materials: Materials
    ) -> None:
        self.model, self.context, self.materials = model, context, materials

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes (batch, draw, host, outcome) of the table."""
        batch, draws = next(iter(self.context.values())).shape
        _, hosts, dopants = self.materials.dopant.shape
        return max(batch, len(self.materials.host)), draws, hosts, NUM_PLAIN + dopants

    def __getitem__(self, rows: Tensor) -> ExactTable:
        """Select images."""
        context = {n: v[rows] if len(v) > 1 else v for n, v in self.context.items()}
        return ExactTable(
            self.model, context, self.materials.map(lambda f: f[rows] if len(f) > 1 else f)
        )

    def log_prob(self, features: Tensor) -> Tensor:
        """Log density of patches under every outcome.

        Parameters
        ----------
        features : Tensor, shape (batch, patch, pixel)
            Intensities.

        Returns
        -------
        Tensor, shape (batch, patch, draw, host, outcome)
            Log density, double precision.
        """
        return self._evidence(features, by_hypothesis=False)

    def density(self, features: Tensor, *, by_hypothesis: bool = False) -> tuple[Tensor, Tensor]:
        """Density of patches relative to that of the best outcome.

        Parameters
        ----------
        features : Tensor, shape (batch, patch, pixel)
            Intensities.
        by_hypothesis : bool
            Keep the hypotheses of a class apart; each is times its share of the class.

        Returns
        -------
        density : Tensor, shape (batch, patch, draw, host, outcome or hypothesis)
            Density over exp(peak).
        peak : Tensor, shape (batch, patch)
            Largest log density of an outcome.
        """
        log_prob = self._evidence(features, by_hypothesis)
        peak = log_prob.flatten(2).amax(-1)
        return (log_prob - peak[:, :, None, None, None]).exp().float(), peak.float()

    def _evidence(self, features: Tensor, by_hypothesis: bool) -> Tensor:
        """Log density of the columns of every image put together."""
        combine = _shares_of_hypotheses if by_hypothesis else _means_of_classes
        rows = tqdm(range(len(features)), disable=not self.model.progress, unit="image")
        return torch.stack([combine(self._image(i, features[i])) for i in rows])

    def _image(self, i: int, pixels: Tensor) -> Tensor:
        """Log density of the patches of one image, shape (patch, draw, host, column)."""
        prior, size = self.model.prior, self.model.prior.num_pixels
        draws = {n: v[i if len(v) > 1 else 0] for n, v in self.context.items()}
        materials = self.materials.row(i if len(self.materials.host) > 1 else 0)
        num_hosts, num_dopants = materials.dopant.shape
        # variables with a number in the prior are equal in all draws, which may then coincide
        distinct, place = torch.stack(list(draws.values()), -1).unique(dim=0, return_inverse=True)
        crystals = [
            Crystal(prior, int(host), dopants.tolist(), dict(zip(draws, row, strict=True)))
            for row in distinct.tolist()
            for host, dopants in zip(materials.host, materials.dopant, strict=True)
        ]
        columns = columns_of_outcomes(num_dopants)
        found = evidence(
            crystals,
            columns,
            pixels.unflatten(-1, (size, size)),
            self.model.box,
            num_draws=self.model.num_draws,
            seed=self.model.seed,
        )
        best = found.log_evidence.flatten(1).argmax(1, keepdim=True)
        low = found.ess.flatten(1).gather(1, best)
        if float(low.median()) < LOW_ESS:
            warn(
                f"the evidence rests on {float(low.median()):.1f} effective draws of the "
                "nuisances; raise num_draws"
            )
        return found.log_evidence.unflatten(1, (len(distinct), num_hosts))[:, place]


def _means_of_classes(log_evidence: Tensor) -> Tensor:
    """Log evidence of the outcomes, (*batch, outcome), from that of the columns."""
    return add_alternatives(log_evidence, class_members(SPECIES), mean_of_alternatives)


def _shares_of_hypotheses(log_evidence: Tensor) -> Tensor:
    """Log evidence of the hypotheses times their shares of the class, (*batch, hypothesis)."""
    shared = log_evidence.clone()
    plain = [(s.defect, h) for s, h in zip(SPECIES, HYPOTHESIS_OF_SPECIES, strict=True)
             if not s.holds_dopant]  # fmt: skip
    classes, hypotheses = zip(*plain, strict=True)
    counts = torch.tensor([classes.count(c) for c in classes], dtype=shared.dtype)
    shared[..., : len(plain)] -= counts.log()
    parts = [
        shared[..., [i for i, h in enumerate(hypotheses) if h == own]].logsumexp(-1)
        for own in dict.fromkeys(hypotheses)
    ]
    return torch.cat([torch.stack(parts, -1), shared[..., len(plain) :]], -1)


def columns_of_outcomes(num_dopants: int) -> Tensor:
    """Columns of which the outcomes consist, by the index that ``Crystal.render`` takes.

    Parameters
    ----------
    num_dopants : int
        Dopants that are enumerated.

    Returns
    -------
    Tensor of int, shape (column,)
        Those of the classes without a dopant, then one for every dopant.
    """
    plain = [i for i, s in enumerate(SPECIES) if not s.holds_dopant]
    doped = next(i for i, s in enumerate(SPECIES) if s.holds_dopant)
    return torch.tensor(plain + [doped + len(SPECIES) * j for j in range(num_dopants)])


def mean_of_alternatives(log_evidence: Tensor) -> Tensor:
    """Log evidence of a class whose columns are equally probable.

    Parameters
    ----------
    log_evidence : Tensor, shape (*batch, column)
        Of the columns.

    Returns
    -------
    Tensor, shape (*batch,)
        Log of the mean evidence.
    """
    return log_evidence.logsumexp(-1) - math.log(log_evidence.shape[-1])


def _box(prior: Prior) -> Box:
    """Bounds of the nuisances that are integrated out."""
    bounds = []
    for name in FREE:
        value = prior.nuisances.get(name, 0.0)
        kind = dist.TransformedDistribution if name == "gain" else dist.Uniform
        if not isinstance(value, float | int | kind):
            raise ValueError(
                f"a number or a {'log-' * (name == 'gain')}uniform distribution was expected for "
                f"{name}, got {value}; see limit_prior()"
            )
        low, high = quantile(value, torch.tensor([0.0, 1.0], dtype=torch.float32)).tolist()
        if name == "gain":
            low, high = math.log(low), math.log(high)
        if name == "rotation" and high > low:
            if abs(high - low - 2 * math.pi) > 1e-3:
                raise ValueError(
                    f"a full turn was expected for the rotation, got {low:.3g} to {high:.3g} rad; "
                    "see limit_prior()"
                )
            # fits start at angles of 0 and above, and may end a little below
            low, high = -math.pi, math.pi
        bounds.append((low, high))
    return Box(*torch.tensor(bounds, dtype=torch.float32).T)
