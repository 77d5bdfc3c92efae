import pytest
import torch
from samples import digest, double_precision

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


def test_features_are_invariant_to_gain_and_offset(encoder):
    patches = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    features = encoder(patches)
    assert features.shape == (3, 2, 6)
    assert torch.allclose(encoder(1e4 * patches + 300), features, atol=1e-4)
    assert torch.isfinite(encoder(torch.zeros(1, 32, 32))).all()


@pytest.mark.parametrize("axes", [None, (-1,), (-2,)])
@pytest.mark.parametrize("quarters", range(4))
def test_features_are_invariant_to_rotation_and_reflection(encoder, patches, quarters, axes):
    """The rotations and reflections that map a square grid of pixels onto itself."""
    other = patches.rot90(quarters, (-2, -1))
    other = other.flip(axes) if axes else other
    # moments in single precision, rotated by an angle that is known to 1e-6 over their modulus
    assert torch.allclose(encoder(other), encoder(patches), atol=1e-4)


def test_features_depend_on_the_position_of_the_site(encoder, patches):
    assert float((encoder(patches.roll(3, -1)) - encoder(patches)).abs().max()) > 1e-3


def test_moments_of_a_rotated_pattern():
    """cos(m (angle - t)) has moments of order m only, multiplied by exp(-i order t)."""
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


def test_orders_are_0_or_1_modulo_3():
    _, order = ring_moments(32)
    assert set((order % 3).tolist()) == {0, 1}
    assert order.abs().max() == 18


def test_default_dtype_does_not_matter(patches):
    """Weights, moments and features are single precision and equal bit by bit."""

    def encode():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder = Encoder(6, 32, 64).eval().requires_grad_(False)
        return digest(encoder(patches), *encoder.state_dict().values(), *ring_moments(32))

    expected = encode()
    with double_precision():
        assert encode() == expected
