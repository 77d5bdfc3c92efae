"""Posterior of defects and context, given an image and what is known of it."""

from .cases import draw_context as draw_context
from .conflict import conflict_with as conflict_with
from .polycrystal import find_grains as find_grains
from .posterior import infer as infer
from .results import load as load, save as save, to_arviz as to_arviz
