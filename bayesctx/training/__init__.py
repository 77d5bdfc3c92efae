"""Fit encoder and likelihood to streamed patches: by what class and what image a patch is of, more or less being known."""

from .fit import train as train
from .ranks import process_group as process_group
from .score import Question as Question, ask as ask, conditional_log_score as conditional_log_score
from .strangers import fit_surprise as fit_surprise
from .width import fit_width as fit_width
