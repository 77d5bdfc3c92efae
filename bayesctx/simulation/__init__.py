"""Simulated images with their truth: prior, then physics, streamed by (seed, index)."""

from .batches import PatchStream as PatchStream, rank_of_process as rank_of_process
from .labelled import simulate as simulate
from .micrograph import simulate_micrograph as simulate_micrograph
from .reading import ShardStream as ShardStream, open_shards as open_shards
from .records import join as join, take as take
from .scene import SPECIES as SPECIES
from .strangers import STRANGERS as STRANGERS, draw_strangers as draw_strangers
from .stream import (
    BLOCK as BLOCK,
    Draft as Draft,
    Patches as Patches,
    develop as develop,
    draft_block as draft_block,
    draw_block as draw_block,
)
from .writing import ShardPlan as ShardPlan, plan_shards as plan_shards, write_shards as write_shards
