"""Posteriors under the simulator itself: of patches by importance sampling, of scans by chains."""

from .density import FREE as FREE, Box as Box, Crystal as Crystal, log_density as log_density
from .exact_model import ExactModel as ExactModel
from .importance import Evidence as Evidence, evidence as evidence
from .long_chains import sample_exactly as sample_exactly
