"""Fit a model to simulated patches, and calibrate it on held-out ones."""

from .calibration import (
    calibrate as calibrate,
    fit_conflict as fit_conflict,
    fit_correlation as fit_correlation,
    fit_width as fit_width,
    score_model as score_model,
)
from .distributed import process_group as process_group
from .fit import train as train
from .objective import (
    Question as Question,
    ask as ask,
    conditional_log_score as conditional_log_score,
)
from .outlier_head import fit_outliers as fit_outliers
