"""The simulator and a training step compute on any device: there is none here, so one that pretends must do."""

import pytest
import torch
from elsewhere import DEVICE, Elsewhere, Pretending

from bayesctx import DefectModel, limit_prior, reference_prior, tmd_prior
from bayesctx.simulation import PatchStream, draw_block
from bayesctx.training import fit


@pytest.fixture
def swapping():
    """Modules swap their parameters for those on the other device instead of changing them."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


def test_devices_do_not_mix():
    with Pretending():
        there = torch.arange(3.0).to(DEVICE)
        assert isinstance(there + 1, Elsewhere)
        with pytest.raises(RuntimeError, match="mixes devices"):
            there + torch.arange(3.0)
        assert torch.equal((2 * there).cpu(), torch.tensor([0.0, 2.0, 4.0]))


@pytest.mark.parametrize("prior", [reference_prior, tmd_prior, limit_prior])
@pytest.mark.parametrize("patches_per_image", [1, 64])
def test_patches_are_the_same_on_another_device(prior, patches_per_image):
    here = draw_block(prior(), 0, 1, patches_per_image=patches_per_image)
    with Pretending():
        there = draw_block(prior(), 0, 1, patches_per_image=patches_per_image, device=DEVICE)
        for name in ("intensity", "defect", "species", "host", "dopant"):
            assert isinstance(getattr(there, name), Elsewhere)
            assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
        assert all(torch.equal(v.cpu(), here.context[n]) for n, v in there.context.items())


def test_training_steps_are_the_same_on_another_device(swapping, monkeypatch):
    asked, draw = [], fit.random_subset
    # every step asks about a part of the context, which most do not
    monkeypatch.setattr(fit, "PARTLY_KNOWN", 1.0)
    monkeypatch.setattr(fit, "random_subset", lambda generator: asked.append(draw(generator)) or asked[-1])

    def learn(device):
        sizes = {"num_features": 6, "num_components": 2, "hidden": 16, "width": 4}
        model = DefectModel(reference_prior(), **sizes).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        stream = PatchStream(reference_prior(), seed=0, stop=2048, batch_size=256, patches_per_image=16, device=device)
        weights = {"context": 3.0, "generative": 0.02}
        return [fit._step(model, b, optimizer, torch.Generator().manual_seed(i), weights) for i, b in enumerate(stream)]

    here = learn("cpu")
    with Pretending():
        there = learn(DEVICE)
    # nothing, all and parts of the context are known in these steps
    assert len({len(known) for known in asked}) > 3
    assert len(asked) == len(here) + len(there)
    for a, b in zip(here, there, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_training_lie_where_its_model_is(swapping, num_workers):
    model = DefectModel(reference_prior(), num_features=6, num_components=2, hidden=16, width=4)
    sizes = {"seed": 0, "start": 0, "stop": 1536, "batch_size": 512, "num_workers": num_workers}
    here = list(fit._load(model, **sizes))
    with Pretending():
        there = list(fit._load(model.to(DEVICE), **sizes))
        assert len(there) == len(here) == 3
        for a, b in zip(here, there, strict=True):
            assert isinstance(b.intensity, Elsewhere)
            assert torch.equal(b.intensity.cpu(), a.intensity)
            assert torch.equal(b.context["dose"].cpu(), a.context["dose"])
