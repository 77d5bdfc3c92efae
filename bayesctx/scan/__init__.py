"""Posterior of a whole scan by its pixels."""

from .chain import Draw
from .coordinates import PAIRS, Coordinates
from .field import Field, Material
from .sampling import Candidate, sample_scan
from .world import CLASS, Scan

__all__ = [
    "CLASS",
    "PAIRS",
    "Candidate",
    "Coordinates",
    "Draw",
    "Field",
    "Material",
    "Scan",
    "sample_scan",
]
