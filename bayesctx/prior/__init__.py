"""What may occur, before an image is seen."""

from .distributions import NUISANCES as NUISANCES, log_uniform as log_uniform, quantile as quantile
from .occurrence import (
    CONTINUOUS as CONTINUOUS,
    MAX_TRIES as MAX_TRIES,
    Prior as Prior,
    limit_prior as limit_prior,
    reference_prior as reference_prior,
    tmd_prior as tmd_prior,
)
