"""Information in bits: entropy and log score of posteriors, and what the context adds to them."""

from .attribution import PLAYERS as PLAYERS, attribute_information as attribute_information
from .design import expected_information_gain as expected_information_gain
from .entropies import entropy as entropy, entropy_reduction as entropy_reduction
from .measures import measure_information as measure_information
from .recordings import class_given_recordings as class_given_recordings
from .targets import TARGETS as TARGETS
from .worth import plot_attribution as plot_attribution
