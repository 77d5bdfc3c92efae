import numpy as np
import pytest

from bayesctx.context import Detector, Probe
from bayesctx.multislice import interference as shear


@pytest.mark.parametrize("interference", [True, False])
def test_parts_of_a_sheared_column_keep_its_total(interference):
    """The fit to the kernel keeps the total; an upright column is its own and only part."""
    column, slope = (("Mo", -1.565), ("S", 1.565)), (0.04, 0.02)
    optics = Probe(beam_energy=120e3, convergence_semiangle=25.0), Detector(60.0, 200.0)
    upright = shear.sheared_parts(column, (0.0, 0.0), *optics, interference=interference)
    assert upright == [(column, 0.0, 0.0, 1.0)]
    conditions = (120e3, 25.0, Detector(60.0, 200.0), shear.NUM_WAVES[2], interference)

    def total(part, slope):
        return np.trace(shear._kernel(part, slope, *conditions)[1]).real

    parts = shear.sheared_parts(column, slope, *optics, interference=interference)
    fitted = sum(weight * total(part, (0.0, 0.0)) for part, _, _, weight in parts)
    assert fitted == pytest.approx(total(column, slope), rel=0.01)
    # as upright, it would be 2 to 3 % off
    assert total(column, (0.0, 0.0)) > 1.02 * fitted
