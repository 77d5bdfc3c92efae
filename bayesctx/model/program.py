"""The generative model of an image: context, composition, defects and the contrast of patches, as a Pyro program."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution
from torch import Tensor, nn

from ..defects import DEFECTS
from ..encoder import Encoder
from ..hypotheses import DOPED, HYPOTHESIS_DEFECT, describe
from ..likelihood import ContrastLikelihood
from ..prior import CONTINUOUS, Prior
from .table import UNDOPED, Materials, Outcomes

__all__ = ["DefectModel"]


class DefectModel(nn.Module):
    """p(context) p(concentration) p(defect | concentration) p(contrast | defect, context) of the patches of images.

    Parameters
    ----------
    prior : Prior
        What may occur.
    num_features, num_components, hidden, width : int
        Sizes of the encoder and of the likelihood, see there.
    seed : int
        Of the weights before training.

    Attributes
    ----------
    correlation : Tensor, shape ()
        Correlation of the evidence of patches of one image, which share source size, aberrations and background: n patches
        tell about the context what n / (1 + (n - 1) correlation) independent ones would (Kish's design effect).
    strangers : Module
        Tells patches that the prior cannot make from those that it can, see ``fit_surprise``.
    card : dict
        What is known of the model: training, scores; written into its file.
    """

    whole_images = True
    """Whether patches of one image may share their context."""

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
        self.prior = prior
        self.sizes = {
            "num_features": num_features,
            "num_components": num_components,
            "hidden": hidden,
            "width": width,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = Encoder(num_features, prior.num_pixels, width)
            self.likelihood = ContrastLikelihood(num_features, num_components, hidden)
            layers = (
                nn.Linear(width, 256),
                nn.SiLU(),
                nn.Linear(256, 256),
                nn.SiLU(),
                nn.Linear(256, 1),
            )
            self.strangers = nn.Sequential(nn.BatchNorm1d(width, affine=False), *layers)
        self.register_buffer("correlation", torch.tensor(0.1))
        self.card: dict[str, object] = {}

    def with_prior(self, prior: Prior) -> DefectModel:
        """Return the same networks under another prior.

        Parameters
        ----------
        prior : Prior
            With the patches of the old one.

        Returns
        -------
        DefectModel
            Shares its weights with this one.

        Raises
        ------
        ValueError
            If its patches differ.
        """
        if (prior.sampling, prior.num_pixels) != (self.prior.sampling, self.prior.num_pixels):
            raise ValueError(
                f"patches of {self.prior.num_pixels} pixels of {self.prior.sampling} Å were expected, "
                f"got {prior.num_pixels} of {prior.sampling} Å; train a model for them"
            )
        model = DefectModel(prior, **self.sizes)
        model.load_state_dict(self.state_dict())
        model.card = self.card
        return model.train(self.training)

    @property
    def domains(self) -> dict[str, tuple]:
        """Smallest and largest value of every continuous variable that the likelihood was trained for."""
        trained = Prior.from_dict(self.card["prior"]) if "prior" in self.card else self.prior
        return {name: trained.domain(name) for name in CONTINUOUS}

    def observe(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model sees of patches.

        Parameters
        ----------
        patches : Tensor, shape (patch, y, x)
            Intensities in any unit.

        Returns
        -------
        features : Tensor, shape (patch, feature)
            Contrast features.
        surprise : Tensor, shape (patch,), or None
            log p(patch | stranger) - log p(patch | prior) in nats; None where it was not fitted.
        """
        hidden = self.encoder.invariants(patches)
        surprise = self.strangers(hidden)[:, 0] if "surprise_limit" in self.card else None
        return self.encoder.condense(hidden), surprise

    def outcomes(self, context: Mapping[str, Tensor], materials: Materials) -> Outcomes:
        """Tabulate the likelihood for draws of the context.

        Parameters
        ----------
        context : mapping of str to Tensor, shape (*batch, draw)
            By the names of ``prior.CONTINUOUS``.
        materials : Materials, shapes (*batch or nothing, host)
            Hosts and dopants to enumerate.

        Returns
        -------
        Outcomes
            Mixtures for every draw, host and hypothesis.
        """
        conditions = {name: value[..., None] for name, value in context.items()}
        lead = (slice(None),) * (materials.host.ndim - 1)
        host, dopant = materials.host[(*lead, None)], materials.dopant[(*lead, None)]
        plain = describe(host, dopant[..., 0], conditions, UNDOPED)
        doped = describe(
            host[..., None], dopant, {n: v[..., None] for n, v in conditions.items()}, [DOPED]
        )[..., 0, :]
        log_weight, loc, scale = self.likelihood.parameters_of(torch.cat([plain, doped], -2))
        alternatives = torch.tensor(
            [float((HYPOTHESIS_DEFECT == HYPOTHESIS_DEFECT[h]).sum()) for h in UNDOPED]
        )
        share = torch.cat([-alternatives.log(), torch.zeros(dopant.shape[-1])]).to(log_weight)
        return Outcomes(log_weight + share[:, None], loc, scale)

    def forward(
        self, contrast: Tensor | None = None, *, num_images: int = 1, num_patches: int = 1
    ) -> Tensor:
        """Pyro program of images with patches.

        Parameters
        ----------
        contrast : Tensor, shape (image, patch, feature), optional
            Observed features; without them they are drawn.
        num_images, num_patches : int
            Sizes of the plates where nothing is observed.

        Returns
        -------
        Tensor, shape (image, patch, feature)
            The contrast.
        """
        if contrast is not None:
            num_images, num_patches = contrast.shape[:2]
        materials = Materials.of(self.prior)
        with pyro.plate("image", num_images, dim=-2):
            host = pyro.sample(
                "host", dist.Categorical(materials.host_weight), infer={"enumerate": "parallel"}
            )
            dopant = pyro.sample(
                "dopant",
                dist.Categorical(materials.dopant_weight[host]),
                infer={"enumerate": "parallel"},
            )
            context = self._sample_conditions()
            allowed = torch.tensor([float(d in self.prior.defects) for d in DEFECTS])
            concentration = pyro.sample("concentration", dist.Dirichlet(allowed + 1e-6))
            with pyro.plate("patch", num_patches, dim=-1):
                defect = pyro.sample(
                    "defect", dist.Categorical(concentration), infer={"enumerate": "parallel"}
                )
                density = self.contrast_given(
                    defect, materials.host[host], materials.dopant[host, dopant], context
                )
                return pyro.sample("contrast", density, obs=contrast)

    def contrast_given(
        self, defect: Tensor, host: Tensor, dopant: Tensor, context: Mapping[str, Tensor]
    ) -> Distribution:
        """Density of the contrast of a patch given the class of its centre and the whole context.

        Parameters
        ----------
        defect, host, dopant : Tensor of int
            Index into ``DEFECTS``, ``HOSTS`` and ``METALS``; shapes broadcast.
        context : mapping of str to Tensor
            By the names of ``prior.CONTINUOUS``; shapes broadcast.

        Returns
        -------
        Distribution, event shape (feature,)
            Mixture over the components of all columns that the class can stand for.
        """
        shape = torch.broadcast_shapes(
            defect.shape, host.shape, dopant.shape, *(v.shape for v in context.values())
        )
        context = {n: v.expand(shape) for n, v in context.items()}
        log_weight, loc, scale = self.likelihood.parameters_of(
            describe(host.expand(shape), dopant.expand(shape), context)
        )
        stands_for = HYPOTHESIS_DEFECT == defect.expand(shape)[..., None]
        log_weight = log_weight.masked_fill(~stands_for[..., None], -torch.inf).flatten(-2)
        mixture = dist.Categorical(logits=log_weight)
        components = dist.Independent(dist.Normal(loc.flatten(-3, -2), scale.flatten(-3, -2)), 1)
        return dist.MixtureSameFamily(mixture, components)

    def _sample_conditions(self) -> dict[str, Tensor]:
        """Continuous context: one site per variable, and one for the alternative conditions of the prior."""
        conditions = self.prior.conditions
        condition = pyro.sample(
            "condition",
            dist.Categorical(torch.ones(len(conditions))),
            infer={"enumerate": "parallel"},
        )
        context = {}
        for name in CONTINUOUS:
            options = [c[name] for c in conditions]
            if all(isinstance(o, float | int) for o in options):
                context[name] = pyro.deterministic(
                    name, torch.tensor([float(o) for o in options])[condition]
                )
            elif not isinstance(options[0], tuple) and len(set(map(str, options))) == 1:
                context[name] = pyro.sample(name, options[0])
            else:
                raise ValueError(
                    f"conditions were expected to differ in numbers only, got {options} for {name}; split the prior"
                )
        inner, outer = context["inner_collection_angle"], context["outer_collection_angle"]
        possible = (context["convergence_semiangle"] <= inner) & (inner * 1.05 < outer)
        pyro.factor("annular_dark_field", possible.to(inner).log())
        return context

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
