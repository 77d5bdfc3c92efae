"""Posterior of a whole scan by its pixels."""

from .chain import Draw
from .coordinates import PAIRS, Coordinates
from .field import Field, Material
from .sampling import sample_scan
from .search import Candidate
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
    "Scan",
    "sample_scan",
]
