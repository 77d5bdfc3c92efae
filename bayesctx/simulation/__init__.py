"""Simulated images with their truth: draws from the prior, then the image formation."""

from .datasets import simulate as simulate, simulate_micrograph as simulate_micrograph
from .latents import (
    BLOCK as BLOCK,
    Draft as Draft,
    Patches as Patches,
    develop as develop,
    draft_block as draft_block,
    draw_block as draw_block,
)
from .outliers import STRANGERS as STRANGERS, draw_strangers as draw_strangers
from .stream import PatchStream as PatchStream, rank_of_process as rank_of_process
