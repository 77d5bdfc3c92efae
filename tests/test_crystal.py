import itertools
import math

import pytest

from bayesctx.crystal import DOPANTS, HOSTS, METALS, MONOLAYER_1H


def test_there_are_96_doped_materials():
    assert len(HOSTS) == 12
    assert sum(len(DOPANTS[h.metal]) for h in HOSTS.values()) == 96
    assert all(h.metal not in DOPANTS[h.metal] for h in HOSTS.values())
    assert set(itertools.chain(*DOPANTS.values())) <= set(METALS)


def test_a_site_has_three_neighbours_at_a_over_root_three():
    positions, sites = MONOLAYER_1H.sites_around(3.2, 5.0)
    distances = [math.hypot(*p) for p in positions]
    assert distances == sorted(distances)
    near = [
        (d, s) for d, s in zip(distances, sites, strict=True) if abs(d - 3.2 / math.sqrt(3)) < 1e-9
    ]
    assert sorted(s for _, s in near) == ["chalcogen"] * 3 + ["hollow"] * 3
    assert sum(abs(d - 3.2) < 1e-9 for d in distances) == 6


def test_lattice_constants_agree_with_another_calculation():
    """Against Liu et al., Phys. Rev. B 88, 085433 (2013), doi:10.1103/PhysRevB.88.085433, PBE."""
    published = {
        "MoS2": 3.190,
        "MoSe2": 3.326,
        "MoTe2": 3.557,
        "WS2": 3.191,
        "WSe2": 3.325,
        "WTe2": 3.560,
    }
    for name, lattice_constant in published.items():
        assert HOSTS[name].lattice_constant == pytest.approx(lattice_constant, abs=0.011)


@pytest.mark.parametrize("host", HOSTS.values(), ids=lambda h: h.name)
def test_bonds_are_as_long_as_the_radii_of_the_atoms(host):
    """Metal to chalcogen, against covalent radii of Cordero et al. (2008), doi:10.1039/b801115j."""
    radius = {
        "Mo": 1.54,
        "W": 1.62,
        "Nb": 1.64,
        "Ta": 1.70,
        "V": 1.53,
        "S": 1.05,
        "Se": 1.20,
        "Te": 1.38,
    }
    bond = math.hypot(host.lattice_constant / math.sqrt(3), host.chalcogen_separation / 2)
    # covalent radii are known to 0.05 Å each; bonds of these layers are shorter than single bonds
    assert 0.88 < bond / (radius[host.metal] + radius[host.chalcogen]) < 1.02
