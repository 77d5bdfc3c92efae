"""Posterior of a whole scan by its pixels."""

from .chain import Draw, sample_worlds
from .coordinates import PAIRS, Coordinates
from .field import Field, Material
from .sampling import Sampled, sample_scan, weigh_scan
from .search import Candidate, Weight
from .world import CLASS, PERFECT, Scan, World

__all__ = [
    "CLASS",
    "PERFECT",
    "PAIRS",
    "Candidate",
    "Coordinates",
    "Draw",
    "Field",
    "Material",
    "Sampled",
    "Scan",
    "Weight",
    "World",
    "sample_scan",
    "sample_worlds",
    "weigh_scan",
]
