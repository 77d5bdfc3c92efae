"""Information in bits: entropy and log score of posteriors, and what the context adds to them."""

from .attribution import PLAYERS as PLAYERS, attribute_information as attribute_information
from .entropies import entropy as entropy, entropy_reduction as entropy_reduction
from .measures import measure_information as measure_information
from .targets import TARGETS as TARGETS
from .worth import plot_attribution as plot_attribution
