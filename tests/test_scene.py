import pytest
import torch

from bayesctx.defects import DEFECTS, SPECIES
from bayesctx.simulation.scene import KINDS, draw_species


def test_neighbours_follow_the_abundance():
    concentration = torch.zeros(13)
    concentration[DEFECTS.index("M")], concentration[DEFECTS.index("D_M")] = 0.7, 0.3
    concentration[DEFECTS.index("X2")] = 5.0
    u = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    species, altered = draw_species(u, KINDS.index("metal"), concentration)
    assert {SPECIES[s].defect for s in species.unique()} == {"M", "D_M"}
    # standard error sqrt(0.21 / 4000) = 0.0072
    assert float(altered.float().mean()) == pytest.approx(0.3, abs=0.03)
