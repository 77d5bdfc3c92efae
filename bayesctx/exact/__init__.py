"""The Bayes limit: the simulator's own likelihood of a patch, its nuisances integrated out by importance sampling."""

from .density import Box as Box, log_density as log_density
from .exact_model import ExactModel as ExactModel
from .expectation import FREE as FREE, Crystal as Crystal
from .importance import Evidence as Evidence, evidence as evidence
