import itertools
import math

import pytest

from bayesctx.structure import DEFECTS, DOPANTS, HOSTS, METALS, SITES, columns_of, dopants_of, honeycomb, species_of


def test_there_are_96_doped_materials():
    assert len(HOSTS) == 12
    assert sum(len(dopants_of(h)) for h in HOSTS) == 96
    assert all(HOSTS[h].metal not in dopants_of(h) for h in HOSTS)
    assert set(itertools.chain(*DOPANTS.values())) <= set(METALS)


def test_every_class_has_a_site():
    assert set(itertools.chain(*SITES.values())) == set(DEFECTS)
    assert len(DEFECTS) == 13


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("host", HOSTS)
def test_columns_are_sorted_along_the_beam(host, defect):
    for column in columns_of(defect, host, dopants_of(host)[0]):
        heights = [z for _, z in column]
        assert heights == sorted(heights)
        assert len(column) <= 2


def test_species_name_the_atoms():
    assert species_of(columns_of("X2", "MoS2", "W")[0]) == "S2"
    assert species_of(columns_of("O_X", "MoS2", "W")[0]) == "OS"
    assert species_of(columns_of("V_M", "MoS2", "W")[0]) == "-"
    assert {species_of(c) for c in columns_of("Y_X", "MoS2", "W")} == {"SeS", "SSe", "TeS", "STe"}


def test_honeycomb_has_three_neighbours_at_a_over_root_three():
    positions, sites = honeycomb(3.2, 5.0)
    distances = [math.hypot(*p) for p in positions]
    assert distances == sorted(distances)
    near = [(d, s) for d, s in zip(distances, sites, strict=True) if abs(d - 3.2 / math.sqrt(3)) < 1e-9]
    assert sorted(s for _, s in near) == ["chalcogen"] * 3 + ["hollow"] * 3
    assert sum(abs(d - 3.2) < 1e-9 for d in distances) == 6
