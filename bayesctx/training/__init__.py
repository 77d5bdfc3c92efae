"""Fit encoder and likelihood to simulated patches, and calibrate what was fitted."""

from .conflict_limit import fit_conflict as fit_conflict
from .correlation import fit_correlation as fit_correlation
from .distributed import process_group as process_group
from .fit import train as train
from .objective import (
    Question as Question,
    ask as ask,
    conditional_log_score as conditional_log_score,
)
from .outlier_head import fit_surprise as fit_surprise
from .scores import score_model as score_model
from .width import fit_width as fit_width
