"""The likelihood of the simulator itself, with nuisances integrated out by importance sampling."""

from .density import FREE as FREE, Box as Box, Crystal as Crystal, log_density as log_density
from .exact_model import ExactModel as ExactModel
from .importance import Evidence as Evidence, evidence as evidence
