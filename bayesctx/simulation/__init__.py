"""Simulated images with their truth: prior, then physics, streamed by (seed, index)."""

from .scene import SPECIES as SPECIES
from .stream import Patches as Patches, draw_block as draw_block, simulate as simulate, simulate_micrograph as simulate_micrograph
