"""Posterior of a whole scan by its pixels."""

from .chain import Draw, sample_worlds
from .contenders import Fitted, fit_scan, weigh_scan
from .coordinates import PAIRS, Coordinates
from .field import Field, Material
from .occupation import RARE
from .sampling import Sampled, sample_scan
from .starts import Candidate, Weight
from .world import CLASS, PERFECT, Scan, World

__all__ = [
    "CLASS",
    "PERFECT",
    "PAIRS",
    "RARE",
    "Candidate",
    "Coordinates",
    "Draw",
    "Field",
    "Fitted",
    "Material",
    "Sampled",
    "Scan",
    "Weight",
    "World",
    "fit_scan",
    "sample_scan",
    "sample_worlds",
    "weigh_scan",
]
