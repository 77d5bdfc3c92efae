"""The exact model: the simulator's likelihood in the place of a neural one, for patches that are images of their own."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

import pyro.distributions as dist
import torch
from torch import Tensor
from tqdm import tqdm

from ..defects import SPECIES
from ..distributions import quantile
from ..model import NUM_PLAIN, Materials, add_alternatives, class_members
from ..prior import CONTINUOUS, Prior, limit_prior
from ..storage import warn
from .density import FREE, Box, Crystal, held_nuisances
from .importance import evidence

__all__ = ["ExactModel", "ExactTable", "columns_of_outcomes", "mean_of_alternatives"]

LOW_ESS = 5.0


class ExactModel:
    """The likelihood of the simulator itself: no network, no training, some tenths of a second for every patch and case.

    ``infer`` takes it in the place of a ``DefectModel``. It is the yardstick of the neural likelihood: what the physics says of a
    defect in a perfect crystal whose few nuisances are integrated out.

    Parameters
    ----------
    prior : Prior, optional
        Perfect crystals, and numbers for all nuisances but rotation, offset, source size, background, gain and dark level.
        Default: ``limit_prior()``.
    num_draws : int
        Draws of the importance sampling for every column.
    seed : int
        Of the draws.
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
    >>> known = patches[["host", "dopant", "beam_energy", "inner_collection_angle", "outer_collection_angle", "dose"]]
    >>> result = bc.infer(patches.intensity, known, bc.ExactModel())
    >>> result["class_posterior"].defect.sizes["defect_class"]
    13
    """

    shares_context = False
    """Whether patches of one image may share their context: here their nuisances would have to be shared as well."""

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
        """Patches are images of their own, so their evidence is independent."""
        return 0.0

    def frozen(self) -> ExactModel:
        """Return the model itself: it has no modes.

        Returns
        -------
        ExactModel
            The same.
        """
        return self

    def encode(self, patches: Tensor) -> tuple[Tensor, None]:
        """Hand patches on: an exact likelihood needs every pixel, and there is no outlier head.

        Parameters
        ----------
        patches : Tensor, shape (patch, y, x)
            Intensities.

        Returns
        -------
        pixels : Tensor, shape (patch, pixel)
            The same.
        surprise : None
            None.
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
            Evaluated when it is asked for a density.
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
    """Likelihood of everything that a site can hold, in every host and under every draw of the context.

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
        rows = tqdm(range(len(features)), disable=not self.model.progress, unit="image")
        return torch.stack([self._image(i, features[i]) for i in rows])

    def density(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Density of patches over that of the best outcome.

        Parameters
        ----------
        features : Tensor, shape (batch, patch, pixel)
            Intensities.

        Returns
        -------
        density : Tensor, shape (batch, patch, draw, host, outcome)
            Density over exp(peak).
        peak : Tensor, shape (batch, patch)
            Largest log density of an outcome.
        """
        log_prob = self.log_prob(features)
        peak = log_prob.flatten(2).amax(-1)
        return (log_prob - peak[:, :, None, None, None]).exp().float(), peak.float()

    def _image(self, i: int, pixels: Tensor) -> Tensor:
        """Log density of the patches of one image, shape (patch, draw, host, outcome)."""
        prior, size = self.model.prior, self.model.prior.num_pixels
        draws = {n: v[i if len(v) > 1 else 0] for n, v in self.context.items()}
        materials = self.materials.row(i if len(self.materials.host) > 1 else 0)
        num_hosts, num_dopants = materials.dopant.shape
        # what the prior holds at a number is the same in every draw
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
                f"the evidence rests on {float(low.median()):.1f} effective draws of the nuisances; raise num_draws",
            )
        return add_alternatives(
            found.log_evidence.unflatten(1, (len(distinct), num_hosts))[:, place],
            class_members(SPECIES),
            mean_of_alternatives,
        )


def columns_of_outcomes(num_dopants: int) -> Tensor:
    """Columns whose evidence tells the outcomes apart, see ``Crystal.render``.

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
                f"a number or a {'log-' * (name == 'gain')}uniform distribution was expected for {name}, got {value}"
            )
        low, high = quantile(value, torch.tensor([0.0, 1.0], dtype=torch.float32)).tolist()
        if name == "gain":
            low, high = math.log(low), math.log(high)
        if name == "rotation" and high > low:
            if abs(high - low - 2 * math.pi) > 1e-3:
                raise ValueError(
                    f"a full turn was expected for the rotation, got {low:.3g} to {high:.3g} rad"
                )
            # a fit that starts at zero may turn back
            low, high = -math.pi, math.pi
        bounds.append((low, high))
    return Box(*torch.tensor(bounds, dtype=torch.float32).T)
