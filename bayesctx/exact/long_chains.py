"""Long chains over the worlds behind a scan, whose transitions leave the posterior invariant."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..evidence import Truncated
from ..scan import Draw, Scan, World
from ..scan.chain import Mode, describe
from ..scan.fits import resize_steps
from ..scan.following import Joint, averaged
from ..scan.moves import linearise_jointly
from ..scan.noise import LEAST_SLOPE
from ..scan.scale_prior import PER_DETECTOR
from ..scan.view import look
from .rounds import Round, advance_exactly
from .scale_moves import settled
from .target import Target
from .tuning import Tuning

__all__ = ["ROUNDS", "WARMUP", "sample_exactly"]

ROUNDS = 8  # of a chain for each draw
WARMUP = 40  # rounds before the first draw, in which proposals are tuned
NEAR = 1e-6  # relative, of what is at an end of its range where a chain begins
LEARNT = (6, 14, 24)  # of these, before which the posterior is approximated anew
TARGET_RATE, LEARNING = 0.75, 0.4  # of trajectories that are taken, and speed of the adaptation

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Chain:
    """A chain: where it is, and what its proposals are made by."""

    scan: Scan
    world: World
    tuning: Tuning
    colours: Sequence[Tensor]
    dopants: Sequence[int]
    generator: torch.Generator
    target: Target = field(default_factory=Target)

    def advance(self) -> Round:
        """One round."""
        found = advance_exactly(
            self.scan, self.world, self.target, self.tuning, self.colours, self.generator,
            self.dopants,
        )  # fmt: skip
        self.scan, self.world = found.scan, found.world
        return found

    def warm_up(self, joint: Joint) -> None:
        """Tune the proposals; what they are made by stays from then on."""
        hessians = [joint.hessian]
        for k in range(WARMUP):
            near = self.tuning.near
            if k in LEARNT:
                given = self.scan, self.world, look(self.scan, self.world), near.size
                near = linearise_jointly(*given)
                hessians.append(near.hessian)
                near = averaged(near, hessians)
                self.tuning = Tuning.of(self.scan, self.world, near)
            rates = self.advance().rates
            change = LEARNING * (rates["shared"] - TARGET_RATE)
            near = resize_steps(self.tuning.near, change)
            self.tuning = replace(self.tuning, near=near)
        logger.debug("steps of %.3f", self.tuning.near.size)


def sample_exactly(
    scan: Scan, mode: Mode, seed: int, dopants: Sequence[int] = (), num_warmup: int = 0
) -> Iterator[Draw]:
    """Draw worlds by long chains that leave the posterior invariant.

    Parameters
    ----------
    scan : Scan
        The scan.
    mode : Mode
        Where to begin.
    seed : int
        Of the chain.
    dopants : sequence of int
        Metals that may be the dopant, equally probable; default: that of the scan.
    num_warmup : int
        Rounds that are left out, beside ``WARMUP``.

    Yields
    ------
    Draw
        Without end, one for ``ROUNDS`` rounds; its probabilities of species are means over these.

    Notes
    -----
    Proposals are tuned in the warm-up only. The draws are those of ``chain.sample_worlds`` without
    its approximations, see ``advance_exactly``.
    """
    world = settled(scan, _inside(scan, mode.world))
    tuning = Tuning.of(scan, world, mode.near)
    generator = torch.Generator().manual_seed(seed)
    chain = _Chain(scan, world, tuning, scan.colours(), dopants, generator)
    chain.warm_up(mode.near)
    for _ in range(num_warmup):
        chain.advance()
    while True:
        rounds = [chain.advance() for _ in range(ROUNDS)]
        logger.debug("%s", rounds[-1].rates)
        probability = sum(r.probability for r in rounds) / ROUNDS
        view = look(chain.scan, chain.world)
        yield describe(chain.scan, chain.world, view, probability)


def _inside(scan: Scan, world: World) -> World:
    """A world whose shares and slopes have a logarithm, with scales within their priors."""
    scales = {}
    for name, prior in scan.coordinates.scale_priors.items():
        if not isinstance(prior.law, Truncated):
            continue
        # the ends of the support are outside of it in single precision
        ends = float(prior.nodes[0]) * (1 + NEAR), float(prior.nodes[-1]) * (1 - NEAR)
        value = torch.as_tensor(getattr(world, name)).clamp(*ends)
        scales[name] = value if name in PER_DETECTOR else float(value)
    return replace(
        world,
        share_wide=min(max(world.share_wide, NEAR), 1 - NEAR),
        share_coarse=min(max(world.share_coarse, NEAR), 1 - NEAR),
        slope=world.slope.clamp(min=LEAST_SLOPE),
        **scales,
    )
