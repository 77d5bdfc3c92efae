"""The Bayes limit: the simulator's own likelihood of a patch, its nuisances integrated out by importance sampling."""

from .crystal import FREE as FREE, Crystal as Crystal
from .density import Box as Box, log_density as log_density
from .evidence import Evidence as Evidence, evidence as evidence
from .program import ExactModel as ExactModel
