"""The generative model of an image as a Pyro program, with a neural likelihood of its patches."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ..abundance import Abundance
from ..checks import check_memory, check_seed, check_whole_number, shorten
from ..context import MIN_ANGLE_RATIO, Detector, is_annular_dark_field
from ..defects import HYPOTHESES
from ..encoder import Encoder
from ..likelihood import CLASS_OF_HYPOTHESIS, ContrastLikelihood, describe
from ..prior import CONTINUOUS, Prior
from .site_prior import SitePrior
from .table import DOPED_HYPOTHESIS, UNDOPED_HYPOTHESES, LikelihoodTable, Materials

__all__ = ["DefectModel", "sample_abundance"]

MOST_UNITS = 10**6  # of a layer
NUM_ALTERNATIVES = tuple(sum(g.defect == h.defect for g in HYPOTHESES) for h in HYPOTHESES)


class DefectModel(nn.Module):
    """Generative model of images: a prior of context and defects, a neural likelihood of patches.

    Parameters
    ----------
    prior : Prior
        Prior of context, abundances, defects and nuisances.
    num_features, num_components, hidden, width : int
        Sizes of the encoder and of the likelihood, see ``Encoder`` and ``ContrastLikelihood``.
    seed : int
        Seed of the random weights before training.

    Attributes
    ----------
    correlation : Tensor, shape ()
        Correlation of the evidence of patches of one image, which share source size, aberrations
        and background: n patches are as informative about the context as
        n / (1 + (n - 1) correlation) independent ones (Kish's design effect).
    outliers : Module
        Log density ratio of patches outside of the prior to those of the prior, see
        ``training.fit_outliers``.
    card : dict
        Training, scores and fitted limits; written into the file of the model.

    Raises
    ------
    TypeError
        If ``prior`` is no prior, or a size or the seed no integer.
    ValueError
        If a size or the seed is out of range, or the networks do not fit into memory.
    """

    shares_context = True
    """Whether several patches may belong to one image and share its context."""

    def __init__(
        self,
        prior: Prior,
        *,
        num_features: int = 32,
        num_components: int = 3,
        hidden: int = 320,
        width: int = 640,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(prior, Prior):
            raise TypeError(
                f"a Prior was expected, got {shorten(prior)}; use reference_prior() or another one"
            )
        self.prior = prior
        sizes = {
            "num_features": num_features,
            "num_components": num_components,
            "hidden": hidden,
            "width": width,
        }
        self.sizes = {n: check_whole_number(n, v, 1, MOST_UNITS) for n, v in sizes.items()}
        _check_memory(**self.sizes)
        with torch.random.fork_rng():
            torch.manual_seed(check_seed(seed))
            self.encoder = Encoder(num_features, prior.num_pixels, width)
            self.likelihood = ContrastLikelihood(num_features, num_components, hidden)
            layers = (
                nn.Linear(width, 256),
                nn.SiLU(),
                nn.Linear(256, 256),
                nn.SiLU(),
                nn.Linear(256, 1),
            )
            self.outliers = nn.Sequential(nn.BatchNorm1d(width, affine=False), *layers)
        self.register_buffer("correlation", torch.tensor(0.1, dtype=torch.float32))
        self.card: dict[str, object] = {}

    def with_prior(self, prior: Prior) -> DefectModel:
        """Return a copy of the networks under another prior.

        Parameters
        ----------
        prior : Prior
            With patches of the same pixels.

        Returns
        -------
        DefectModel
            With weights and card of its own.

        Raises
        ------
        ValueError
            If the pixels of its patches differ.
        """
        if (prior.sampling, prior.num_pixels) != (self.prior.sampling, self.prior.num_pixels):
            raise ValueError(
                f"patches of {self.prior.num_pixels} pixels of {self.prior.sampling} Å were "
                f"expected, got {prior.num_pixels} of {prior.sampling} Å; train a model for them"
            )
        model = DefectModel(prior, **self.sizes)
        model.load_state_dict(self.state_dict())
        model.card = copy.deepcopy(self.card)
        return model.train(self.training)

    def frozen(self) -> DefectModel:
        """Return the model in evaluation mode, itself if it already is.

        Returns
        -------
        DefectModel
            A copy where this one is in training mode, so that the caller's model keeps its mode.
        """
        return copy.deepcopy(self).eval() if self.training else self

    @property
    def domains(self) -> dict[str, tuple]:
        """Smallest and largest value of every continuous variable in the training."""
        if "prior" not in self.card:
            return _domains(self.prior)
        return _trained_domains(json.dumps(self.card["prior"]))

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the contrast features of patches, and their log density ratio as outliers.

        Parameters
        ----------
        patches : Tensor, shape (patch, y, x)
            Intensities in any unit.

        Returns
        -------
        features : Tensor, shape (patch, feature)
            Contrast features.
        surprise : Tensor, shape (patch,), or None
            log p(patch | outlier) - log p(patch | prior) in nats; None where it was not fitted.
        """
        hidden = self.encoder.invariants(patches)
        surprise = self.outliers(hidden)[:, 0] if "surprise_limit" in self.card else None
        return self.encoder.condense(hidden), surprise

    def tabulate(self, context: Mapping[str, Tensor], materials: Materials) -> LikelihoodTable:
        """Tabulate the likelihood for draws of the context.

        Parameters
        ----------
        context : mapping of str to Tensor, shape (*batch, draw)
            By the names of ``prior.CONTINUOUS``.
        materials : Materials, shapes (*batch or nothing, host)
            Hosts and dopants to enumerate.

        Returns
        -------
        LikelihoodTable
            Mixtures for every draw, host and hypothesis.
        """
        conditions = {name: value[..., None] for name, value in context.items()}
        lead = (slice(None),) * (materials.host.ndim - 1)
        host, dopant = materials.host[(*lead, None)], materials.dopant[(*lead, None)]
        plain = describe(host, dopant[..., 0], conditions, UNDOPED_HYPOTHESES)
        by_dopant = {n: v[..., None] for n, v in conditions.items()}
        doped = describe(host[..., None], dopant, by_dopant, [DOPED_HYPOTHESIS])[..., 0, :]
        log_weight, loc, scale = self.likelihood.parameters_of(torch.cat([plain, doped], -2))
        # the alternatives of a class are equally probable
        counts = [NUM_ALTERNATIVES[h] for h in UNDOPED_HYPOTHESES] + [1] * dopant.shape[-1]
        share = -torch.tensor(counts).to(log_weight).log()
        return LikelihoodTable(log_weight + share[:, None], loc, scale)

    def forward(
        self,
        contrast: Tensor | None = None,
        *,
        sublattice: Tensor | None = None,
        num_images: int = 1,
        num_patches: int = 1,
    ) -> Tensor:
        """Pyro program of images with patches.

        Parameters
        ----------
        contrast : Tensor, shape (image, patch, feature), optional
            Observed features; without them they are drawn.
        sublattice : Tensor of int, shape (patch,), optional
            Sublattice of the central site of every patch of a micrograph. Default: patches whose
            central site may be of any class, as in training.
        num_images, num_patches : int
            Sizes of the plates where nothing is observed.

        Returns
        -------
        Tensor, shape (image, patch, feature)
            The contrast.

        Raises
        ------
        ValueError
            If the conditions of the prior differ in more than numbers.

        Notes
        -----
        Plates: image at dim -2, patch at dim -1. ``infer`` enumerates host, dopant, assignment and
        class, sums over draws of the continuous context and integrates the abundances out by a
        quadrature. It differs from the program in one respect: for several patches of one image
        it raises the evidence for the context and the abundances to the power
        1 / (1 + (n - 1) ``correlation``), since the features of these patches are not independent
        given the context. ``infer`` given a context has the prior of
        ``model.with_prior(model.prior.given(context))``, also for evidence on the abundances. The
        In a co-doped crystal every patch has a ``dopant`` of its own, and the image the share
        ``dopant_share`` of the second one, over which ``infer`` sums. The
        site ``fraction`` holds those fractions of ``Abundance`` that are not known, of all kinds of
        site one after the other.
        """
        if contrast is not None:
            num_images, num_patches = contrast.shape[:2]
        if sublattice is None:
            sites = SitePrior.of_patches(self.prior, num_patches)
        else:
            sites = SitePrior.of_lattice(self.prior, sublattice)
        materials = Materials.of(self.prior)
        each = {"enumerate": "parallel"}
        with pyro.plate("image", num_images, dim=-2):
            host = pyro.sample("host", dist.Categorical(materials.host_weight), infer=each)
            if materials.is_codoped:
                second = pyro.sample("dopant_share", dist.Beta(1.0, 1.0))[..., None]
                law = dist.Categorical(torch.cat([1 - second, second], -1))
            else:
                law = dist.Categorical(materials.dopant_weight[host])
                dopant = pyro.sample("dopant", law, infer=each)
            context = self._sample_conditions()
            equal = torch.ones(len(sites.assignments), dtype=torch.float32)
            assignment = pyro.sample("assignment", dist.Categorical(equal), infer=each)
            abundance = sample_abundance(sites.abundance)
            with pyro.plate("patch", num_patches, dim=-1):
                if materials.is_codoped:
                    dopant = pyro.sample("dopant", law, infer=each)
                kind = Vindex(sites.kinds)[assignment, torch.arange(num_patches)]
                share = Vindex(abundance)[..., kind, :]
                # from probabilities Categorical would give a class that cannot be 1e-7
                law = dist.Categorical(logits=share.log())
                defect = pyro.sample("defect", law, infer=each)
                material = materials.host[host], materials.dopant[host, dopant]
                density = self.contrast_given(defect, *material, context)
                return pyro.sample("contrast", density, obs=contrast)

    def contrast_given(
        self, defect: Tensor, host: Tensor, dopant: Tensor, context: Mapping[str, Tensor]
    ) -> Distribution:
        """Density of the contrast of a patch given the class in its centre and the whole context.

        Parameters
        ----------
        defect, host, dopant : Tensor of int
            Index into ``DEFECTS``, ``HOSTS`` and ``METALS``; shapes broadcast.
        context : mapping of str to Tensor
            By the names of ``prior.CONTINUOUS``; shapes broadcast.

        Returns
        -------
        Distribution, event shape (feature,)
            Mixture over the components of all columns of the class.
        """
        shape = torch.broadcast_shapes(
            defect.shape, host.shape, dopant.shape, *(v.shape for v in context.values())
        )
        context = {n: v.expand(shape) for n, v in context.items()}
        inputs = describe(host.expand(shape), dopant.expand(shape), context)
        log_weight, loc, scale = self.likelihood.parameters_of(inputs)
        stands_for = CLASS_OF_HYPOTHESIS == defect.expand(shape)[..., None]
        log_weight = log_weight.masked_fill(~stands_for[..., None], -torch.inf).flatten(-2)
        mixture = dist.Categorical(logits=log_weight)
        components = dist.Normal(loc.flatten(-3, -2), scale.flatten(-3, -2))
        return dist.MixtureSameFamily(mixture, dist.Independent(components, 1))

    def _sample_conditions(self) -> dict[str, Tensor]:
        """Sample the continuous context: the condition of the prior, then its variables."""
        conditions = self.prior.conditions
        condition = pyro.sample(
            "condition",
            dist.Categorical(torch.ones(len(conditions), dtype=torch.float32)),
            infer={"enumerate": "parallel"},
        )
        context = {}
        for name in CONTINUOUS:
            options = [c[name] for c in conditions]
            if all(isinstance(o, float | int) for o in options):
                values = torch.tensor([float(o) for o in options], dtype=torch.float32)
                context[name] = pyro.deterministic(name, values[condition])
            elif not isinstance(options[0], tuple) and len(set(map(str, options))) == 1:
                context[name] = pyro.sample(name, options[0])
            else:
                raise ValueError(
                    f"conditions that differ in numbers only were expected, got {options} for "
                    f"{name}; condition the prior with given()"
                )
        possible = is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))
        pyro.factor("annular_dark_field", possible.to(context["dose"]).log())
        # angles that do not go with each other have no density; what follows must be finite
        inner = torch.maximum(context["inner_collection_angle"], context["convergence_semiangle"])
        outer = torch.maximum(context["outer_collection_angle"], MIN_ANGLE_RATIO * inner)
        rings = {"inner_collection_angle": inner, "outer_collection_angle": outer}
        return context | rings

    def hash(self) -> str:
        """Return the first sixteen hexadecimal digits of the SHA-256 of the weights.

        Returns
        -------
        str
            Names the weights in every result.
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def sample_abundance(abundance: Abundance) -> Tensor:
    """Sample the fractions that are not known, and with them the abundances.

    Parameters
    ----------
    abundance : Abundance
        Their distribution.

    Returns
    -------
    Tensor, shape (*batch, kind, defect_class)
        Of the site ``abundance``; what is sampled is ``fraction``.
    """
    free = abundance.is_free
    mean, strength = abundance.fraction[free].float(), abundance.strength[free].float()
    beta = dist.Beta(mean * strength, (1 - mean) * strength).to_event(1)
    fraction = pyro.sample("fraction", beta)
    whole = abundance.fraction.float().expand(*fraction.shape[:-1], *free.shape)
    whole = whole.masked_scatter(free, fraction)
    return pyro.deterministic("abundance", abundance.shares(whole), event_dim=2)


def _check_memory(num_features: int, num_components: int, hidden: int, width: int) -> None:
    """Raise for networks that do not fit into memory, by the largest of their matrices."""
    outputs = num_components * (2 * num_features + 1)
    weights = max(width**2, width * num_features, hidden**2, hidden * outputs)
    check_memory(4 * weights, f"networks of {width} and {hidden} units and {outputs} outputs")


@functools.lru_cache(maxsize=16)
def _trained_domains(prior: str) -> dict[str, tuple]:
    """Domains of the prior on a card, read once: every call of ``infer`` asks for them."""
    return _domains(Prior.from_dict(json.loads(prior)))


def _domains(prior: Prior) -> dict[str, tuple]:
    """Smallest and largest value of every continuous variable under a prior."""
    return {name: prior.domain(name) for name in CONTINUOUS}
