"""How columns of atoms scatter: atoms, multislice of one column, and the shipped table of column responses."""

from .amplitude import mean_amplitude as mean_amplitude
from .atoms import (
    THERMAL_DISPLACEMENT as THERMAL_DISPLACEMENT,
    scattering_factor as scattering_factor,
    thermal_displacement as thermal_displacement,
)
from .grid import Grid as Grid
from .kernel import Kernel as Kernel, scattering_kernel as scattering_kernel
from .response import chebyshev as chebyshev, fit_response as fit_response, tabulate as tabulate
from .table import (
    LookUp as LookUp,
    ResponseTable as ResponseTable,
    column_response as column_response,
    load_table as load_table,
)
