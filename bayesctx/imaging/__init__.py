"""Columns, optics and detector to an image: the sum of column responses, and multislice as its truth."""

from .columns import column_image as column_image
from .multislice import multislice_image as multislice_image
from .spectra import (
    column_spectra as column_spectra,
    interpolation_matrix as interpolation_matrix,
    structure_factors as structure_factors,
    synthesize as synthesize,
)
