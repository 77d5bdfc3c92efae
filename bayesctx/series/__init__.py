"""Series of micrographs: their results in a folder, and what they have in common."""

from .blocks import infer_blocks as infer_blocks
from .concentrations import summarise as summarise
from .ledger import Record as Record
from .running import infer_series as infer_series, open_series as open_series
from .session import session_prior as session_prior
