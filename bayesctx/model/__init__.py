"""The generative model of an image, its likelihood table, and its file."""

from .program import DefectModel as DefectModel
from .table import Materials as Materials, Outcomes as Outcomes, outcome_classes as outcome_classes
from .weights import load_model as load_model, save_model as save_model
