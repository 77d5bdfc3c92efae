"""Simulated images with their truth: prior, then physics, streamed by (seed, index)."""

from .batches import PatchStream as PatchStream, join as join, take as take
from .scene import SPECIES as SPECIES
from .stream import (
    BLOCK as BLOCK,
    Patches as Patches,
    draw_block as draw_block,
    simulate as simulate,
    simulate_micrograph as simulate_micrograph,
)
