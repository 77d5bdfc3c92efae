"""What is known of an image: checked, truncated to the domain, and held against the prior."""

from .agreement import condition_on as condition_on
from .checking import check_context as check_context, check_imaging as check_imaging
from .truncation import TINY as TINY, Truncated as Truncated, truncate as truncate
