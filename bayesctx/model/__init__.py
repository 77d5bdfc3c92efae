"""The generative model of an image and its file."""

from .files import load_model as load_model, save_model as save_model
from .outcomes import Materials as Materials, Outcomes as Outcomes, outcome_classes as outcome_classes
from .program import DefectModel as DefectModel
