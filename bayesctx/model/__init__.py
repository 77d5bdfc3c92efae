"""The generative model of an image, its likelihood table, and its file."""

from .program import DefectModel as DefectModel, sample_abundance as sample_abundance
from .protocol import PatchModel as PatchModel, Table as Table
from .site_prior import SitePrior as SitePrior
from .table import (
    NUM_PLAIN as NUM_PLAIN,
    NUM_UNDOPED as NUM_UNDOPED,
    LikelihoodTable as LikelihoodTable,
    Materials as Materials,
    add_alternatives as add_alternatives,
    class_members as class_members,
    hypothesis_classes as hypothesis_classes,
    outcome_classes as outcome_classes,
    outcomes_of_hypotheses as outcomes_of_hypotheses,
)
from .weights import load_model as load_model, save_model as save_model
