"""The generative model of an image, its likelihood table, and its file."""

from .program import DefectModel as DefectModel, sample_abundance as sample_abundance
from .protocol import PatchModel as PatchModel, Table as Table
from .site_prior import SitePrior as SitePrior
from .table import (
    NUM_PLAIN as NUM_PLAIN,
    LikelihoodTable as LikelihoodTable,
    Materials as Materials,
    add_alternatives as add_alternatives,
    class_members as class_members,
    outcome_classes as outcome_classes,
)
from .weights import load_model as load_model, save_model as save_model
