"""Prior of an image: hosts, dopants, imaging conditions, abundance of defects, and nuisances."""

from ..composition import CONTINUOUS as CONTINUOUS
from .image_prior import MAX_TRIES as MAX_TRIES, Prior as Prior
from .presets import (
    limit_prior as limit_prior,
    paper_prior as paper_prior,
    reference_prior as reference_prior,
    tmd_prior as tmd_prior,
)
