"""Checks of the context of an image, truncation of soft evidence, and conditioning of priors."""

from .agreement import condition_on as condition_on
from .checking import check_context as check_context, check_imaging as check_imaging
from .codoping import Codoped as Codoped, check_codoping as check_codoping
from .shares import Stick as Stick, check_shares as check_shares, sticks_of as sticks_of
from .truncation import (
    FEW_OUTSIDE as FEW_OUTSIDE,
    TINY as TINY,
    Truncated as Truncated,
    truncate as truncate,
)
