"""Simulated patches as a folder of files."""

from .reading import ShardStream as ShardStream, open_shards as open_shards
from .writing import (
    ShardPlan as ShardPlan,
    plan_shards as plan_shards,
    write_shards as write_shards,
)
