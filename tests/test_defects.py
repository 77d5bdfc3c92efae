import itertools

import pytest

from bayesctx.crystal import DOPANTS, HOSTS
from bayesctx.defects import (
    CLASSES,
    DEFECTS,
    HYPOTHESES,
    HYPOTHESIS_OF_SPECIES,
    SITES,
    SPECIES,
    columns_of,
    formula_of,
)


def test_every_class_has_a_site():
    assert set(itertools.chain(*SITES.values())) == set(DEFECTS)
    assert len(DEFECTS) == 13


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("host", HOSTS)
def test_columns_are_sorted_along_the_beam(host, defect):
    for column in columns_of(defect, host, DOPANTS[HOSTS[host].metal][0]):
        heights = [z for _, z in column]
        assert heights == sorted(heights)
        assert len(column) <= 2


def test_species_name_the_atoms():
    assert formula_of(columns_of("X2", "MoS2", "W")[0]) == "S2"
    assert formula_of(columns_of("O_X", "MoS2", "W")[0]) == "OS"
    assert formula_of(columns_of("V_M", "MoS2", "W")[0]) == "-"
    assert {formula_of(c) for c in columns_of("Y_X", "MoS2", "W")} == {"SeS", "SSe", "TeS", "STe"}


def test_the_perfect_class_of_a_site_stands_first():
    assert {k: v[0] for k, v in SITES.items()} == {
        "metal": "M", "chalcogen": "X2", "hollow": "hollow",
    }  # fmt: skip
    assert len({c.title for c in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("species", range(len(SPECIES)))
def test_a_hypothesis_joins_mirror_images_and_nothing_else(species):
    """Only columns of the same hypothesis are mirror images in the plane of the layer."""
    column = SPECIES[species].column("WSe2", "Ti")
    reflected = tuple(sorted(((e, -z) for e, z in column), key=lambda atom: atom[1]))
    for other, hypothesis in zip(SPECIES, HYPOTHESIS_OF_SPECIES, strict=True):
        same = other.column("WSe2", "Ti") in (column, reflected)
        alike = (other.defect, other.site) == (SPECIES[species].defect, SPECIES[species].site)
        assert (same and alike) == (hypothesis == HYPOTHESIS_OF_SPECIES[species])
    assert HYPOTHESES[HYPOTHESIS_OF_SPECIES[species]].defect == SPECIES[species].defect
