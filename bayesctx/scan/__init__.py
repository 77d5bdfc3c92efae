"""Posterior of a whole scan by its pixels."""

from .chain import Draw
from .coordinates import PAIRS, Coordinates
from .field import Field, Material
from .sampling import Sampled, sample_scan, weigh_scan
from .search import Candidate, Weight
from .world import CLASS, PERFECT, Scan

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
    "sample_scan",
    "weigh_scan",
]
