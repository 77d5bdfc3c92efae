"""Simulated images with their truth: prior, then physics, streamed by (seed, index)."""

from .batches import PatchStream as PatchStream, join as join, move as move, rank_of_process as rank_of_process, take as take
from .micrograph import simulate_micrograph as simulate_micrograph
from .reading import ShardStream as ShardStream, open_shards as open_shards
from .scene import SPECIES as SPECIES
from .strangers import STRANGERS as STRANGERS, draw_strangers as draw_strangers
from .stream import BLOCK as BLOCK, Patches as Patches, draw_block as draw_block, simulate as simulate
from .writing import ShardPlan as ShardPlan, plan_shards as plan_shards, write_shards as write_shards
