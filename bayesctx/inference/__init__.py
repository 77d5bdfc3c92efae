"""Posterior of defects and context, given an image and what is known of it."""

from .checks import fit_conflict as fit_conflict
from .conditioning import draw_context as draw_context
from .correlation import fit_correlation as fit_correlation
from .posterior import infer as infer
from .results import load as load, save as save, to_arviz as to_arviz
