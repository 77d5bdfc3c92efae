"""Columns, optics and detector to an image: the sum of column responses, and multislice as its truth."""

from .columns import column_image as column_image
from .multislice import multislice_image as multislice_image
from .shear import pair_overlap as pair_overlap
from .spectra import (
    FWHM as FWHM,
    bandwidth as bandwidth,
    column_phases as column_phases,
    column_spectra as column_spectra,
    interpolation_matrix as interpolation_matrix,
    structure_factor as structure_factor,
    synthesize as synthesize,
)
