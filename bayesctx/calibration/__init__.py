"""Is a posterior as sure as it may be: log score, reliability, ranks, coverage."""

from .classes import (
    class_reliability as class_reliability,
    confusion as confusion,
    log_score as log_score,
    reliability as reliability,
)
from .draws import coverage as coverage, ranks as ranks
from .models import score_model as score_model
from .sites import MATCH as MATCH, match_sites as match_sites
