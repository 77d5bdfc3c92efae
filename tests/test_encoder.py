import pytest
import torch

from bayesctx.encoder import Encoder, ring_moments
from bayesctx.prior import reference_prior
from bayesctx.simulation import draw_block


@pytest.fixture
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(6, 32, 64).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def patches():
    return draw_block(reference_prior(), 0, 0).intensity[:64, 0]


def test_encoder_is_blind_to_gain_and_offset(encoder):
    patches = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    features = encoder(patches)
    assert features.shape == (3, 2, 6)
    assert torch.allclose(encoder(1e4 * patches + 300), features, atol=1e-4)
    assert torch.isfinite(encoder(torch.zeros(1, 32, 32))).all()


@pytest.mark.parametrize("axes", [None, (-1,), (-2,)])
@pytest.mark.parametrize("quarters", range(4))
def test_encoder_is_blind_to_the_direction_of_the_crystal(encoder, patches, quarters, axes):
    """Quarter turns and reflections, which a square grid allows: three quarters of them change the third of the turn."""
    other = patches.rot90(quarters, (-2, -1))
    other = other.flip(axes) if axes else other
    # moments of single precision, their angle divided by the length of the third ones
    assert torch.allclose(encoder(other), encoder(patches), atol=1e-4)


def test_encoder_sees_what_lies_beside_the_centre(encoder, patches):
    assert float((encoder(patches.roll(3, -1)) - encoder(patches)).abs().max()) > 1e-3


def test_moments_of_a_turned_pattern_are_turned():
    """A pattern cos(m (angle - turn)) has moments of order m alone, with the phase of its turn."""
    basis, order = ring_moments(32)
    axis = torch.arange(32) - 15.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    shape = torch.exp(-((radius - 9) ** 2) / 8)
    for m in (1, 3, 5):
        still, turned = (
            (shape * torch.cos(m * (angle - t))).flatten().to(basis.dtype) @ basis
            for t in (0.0, 0.4)
        )
        mine = order.abs() == m
        large = still.abs() > 0.1 * still[mine].abs().max()
        assert bool((large <= mine).all())
        phase = torch.exp(-1j * order[large] * 0.4)
        assert torch.allclose(
            turned[large], still[large] * phase, atol=2e-3 * float(still.abs().max())
        )


def test_orders_other_than_three_turn_alike():
    _, order = ring_moments(32)
    assert set((order % 3).tolist()) == {0, 1}
    assert order.abs().max() == 18
