import warnings

import numpy as np
import pyro.distributions as dist
import pytest

from bayesctx.crystal import HOSTS
from bayesctx.inference.scales import candidate_scales, conflict_of_size
from bayesctx.micrograph import Lattice
from bayesctx.prior import reference_prior

SAMPLING = 0.2


def lattice_of(constant):
    """An undistorted lattice of a constant in Å on pixels of 0.2 Å."""
    a = constant / SAMPLING
    vectors = a * np.array([[0.0, 1.0], [np.sqrt(3) / 2, 0.5]])
    return Lattice(vectors, np.zeros(2), np.zeros((2, 4, 4)), (256, 256), 100.0, 1.0)


WSE2 = lattice_of(HOSTS["WSe2"].lattice_constant)


def scales(lattice, known, stated=None):
    return candidate_scales(lattice, known, stated, reference_prior())


def test_a_host_implies_one_pixel_size():
    (scale,) = scales(WSE2, {"host": "WSe2"})
    assert scale.hosts == ("WSe2",)
    assert scale.sampling == pytest.approx(SAMPLING)
    assert scale.log_weight == 0.0


def test_every_host_belongs_to_one_pixel_size():
    """Nothing known: hosts of similar lattice constant share a pixel size, by their number."""
    found = scales(WSE2, {})
    assert sorted(h for s in found for h in s.hosts) == sorted(HOSTS)
    for scale in found:
        implied = [HOSTS[h].lattice_constant / WSE2.lattice_constant for h in scale.hosts]
        assert scale.sampling == pytest.approx(np.mean(implied))
        assert max(implied) / min(implied) < 1.03
        assert np.exp(scale.log_weight) == pytest.approx(len(scale.hosts) / 12)


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.02])
def test_a_stated_pixel_size_is_evidence_for_the_hosts_that_it_fits(factor):
    best = scales(WSE2, {"sampling": factor * SAMPLING})[0]
    assert "WSe2" in best.hosts
    assert abs(best.sampling / SAMPLING - 1) < 0.01


def test_coordinates_stand_for_a_pixel_size_that_is_not_given():
    by_coordinates, given = scales(WSE2, {}, SAMPLING), scales(WSE2, {"sampling": SAMPLING}, 0.3)
    assert by_coordinates == given


def test_a_wrong_pixel_size_leaves_the_true_host_a_chance():
    """Ten per cent off: the true host keeps more than a hundredth of the weight of the best."""
    weights = {h: s.log_weight for s in scales(WSE2, {"sampling": 1.1 * SAMPLING}) for h in s.hosts}
    assert weights["WSe2"] > max(weights.values()) + np.log(0.01)


def test_soft_pixel_sizes_are_weighed():
    exact = scales(WSE2, {"sampling": dist.Normal(SAMPLING, 1e-4)})
    wide = scales(WSE2, {"sampling": dist.Uniform(0.15, 0.25)})
    assert "WSe2" in exact[0].hosts
    assert exact[0].log_weight > wide[0].log_weight
    # all hosts are in the range: weighted by their number times their pixel size, as the blur is
    # relative to and which differs by 6 % from the mean at most
    numbers = sorted(len(s.hosts) / 12 for s in wide)
    assert np.allclose(sorted(np.exp(s.log_weight) for s in wide), numbers, rtol=0.07)
    candidates = scales(WSE2, {"sampling": [0.1, SAMPLING]})
    assert candidates[0] == scales(WSE2, {"sampling": SAMPLING})[0]


def test_a_pixel_size_that_is_put_aside_is_said():
    with pytest.warns(
        UserWarning, match="pixel size of 0.21 Å is put aside, the lattice of WSe2 imp"
    ):
        scales(WSE2, {"host": "WSe2", "sampling": 0.21})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scales(WSE2, {"host": "WSe2", "sampling": 0.207})


@pytest.mark.parametrize("constant", [1.6, 2.46, 4.14, 5.52])
def test_a_lattice_that_no_host_has_is_refused(constant):
    with pytest.raises(ValueError, match=f"3.17 to 3.55 Å was expected .* got {constant:.2f} Å"):
        scales(lattice_of(constant), {"sampling": SAMPLING})


@pytest.mark.parametrize(("size", "factor"), [(0.02, "10 times too s"), (20, "100 times too l")])
def test_a_pixel_size_whose_decimal_point_is_wrong_is_told_with_the_right_one(size, factor):
    expected = rf"0.2 Å were expected by the lattice of WSe2, .* {factor}.*; state sampling=0.2$"
    with pytest.raises(ValueError, match=expected):
        scales(WSE2, {"host": "WSe2"}, size)
    with pytest.raises(ValueError, match=r"; state sampling=0.2$"):
        scales(WSE2, {}, size)


def test_a_pixel_size_speaks_against_a_host_of_another_lattice_constant():
    lattice = lattice_of(HOSTS["MoS2"].lattice_constant)

    def conflict(host, **known):
        return conflict_of_size(lattice, {"host": host, **known}, None, reference_prior())

    assert conflict("MoS2") == conflict("MoTe2") == 0.0
    exact = dist.Normal(SAMPLING, 1e-3)
    assert conflict("MoS2", sampling=exact) < 0.0
    # 11 % at an error of 1.5 %, against hosts of which some fit
    assert conflict("MoTe2", sampling=exact) > 20.0
    assert 2.0 < conflict("MoTe2", sampling=SAMPLING) < 6.0
