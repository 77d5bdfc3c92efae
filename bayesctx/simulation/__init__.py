"""Simulated images with their truth: draws from the prior, then the image formation."""

from .datasets import simulate as simulate, simulate_micrograph as simulate_micrograph
from .latents import (
    BLOCK as BLOCK,
    Latents as Latents,
    Patches as Patches,
    draw_block as draw_block,
    draw_latents as draw_latents,
    render_patches as render_patches,
)
from .outliers import OUTLIERS as OUTLIERS, draw_outliers as draw_outliers
from .stream import PatchStream as PatchStream, rank_of_process as rank_of_process
