"""Multislice: column responses for the shipped table, and reference images of crystals."""

from .atoms import (
    scattering_factor as scattering_factor,
    thermal_displacement as thermal_displacement,
)
from .columns import column_image as column_image, column_response as column_response
from .frozen_phonons import multislice_image as multislice_image
from .grid import Grid as Grid
from .kernel import (
    Kernel as Kernel,
    mean_amplitude as mean_amplitude,
    scattering_kernel as scattering_kernel,
)
from .tabulation import fit_response as fit_response, tabulate as tabulate
