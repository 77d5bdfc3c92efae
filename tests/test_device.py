"""Simulator and training step on another device, emulated on the CPU (``elsewhere``)."""

import pytest
import torch
from elsewhere import DEVICE, Elsewhere, Simulated

from bayesctx import DefectModel, limit_prior, reference_prior, tmd_prior
from bayesctx.simulation import PatchStream, draw_block, draw_latents, render_patches
from bayesctx.tensors import join
from bayesctx.training import fit


@pytest.fixture
def swapping():
    """Let ``Module.to`` replace parameters, as a change of device of tensor subclasses needs."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


def test_devices_do_not_mix():
    with Simulated():
        there = torch.arange(3.0).to(DEVICE)
        assert isinstance(there + 1, Elsewhere)
        with pytest.raises(RuntimeError, match="mixes devices"):
            there + torch.arange(3.0)
        assert torch.equal((2 * there).cpu(), torch.tensor([0.0, 2.0, 4.0]))


@pytest.mark.parametrize("prior", [reference_prior, tmd_prior, limit_prior])
@pytest.mark.parametrize("patches_per_image", [1, 16, 64])
@pytest.mark.parametrize("noise", [False, True])
def test_patches_are_the_same_on_another_device(prior, patches_per_image, noise):
    """On a GPU images of several blocks and of different extents are computed together."""
    options = {"patches_per_image": patches_per_image, "noise": noise}
    here = join([draw_block(prior(), 0, b, **options) for b in range(3)])
    with Simulated():
        there = render_patches(
            prior(), join([draw_latents(prior(), 0, b, **options) for b in range(3)]), DEVICE
        )
        for name in ("intensity", "defect", "species", "host", "dopant"):
            assert isinstance(getattr(there, name), Elsewhere)
        for name in ("defect", "species", "host", "dopant"):
            assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
        assert all(torch.equal(v.cpu(), here.context[n]) for n, v in there.context.items())
        differ = (there.intensity.cpu() - here.intensity).abs() / here.intensity.abs().amax(
            (-2, -1), keepdim=True
        )
    # single precision; rounding may change a count by one, in less than one pixel in a thousand
    assert float((differ > 3e-6).float().mean()) < (5e-4 if noise else 1e-12)


def test_training_steps_are_the_same_on_another_device(swapping, monkeypatch):
    asked, draw = [], fit.random_subset
    monkeypatch.setattr(
        fit, "random_subset", lambda generator: asked.append(draw(generator)) or asked[-1]
    )

    def learn(device):
        sizes = {"num_features": 6, "num_components": 2, "hidden": 16, "width": 4}
        model = DefectModel(reference_prior(), **sizes).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        stream = PatchStream(
            reference_prior(),
            seed=0,
            stop=2048,
            batch_size=256,
            patches_per_image=16,
            device=device,
        )
        loss = {"context_weight": 3.0, "contrast_images": 16, "generative_weight": 0.02}
        loss["partly_known"] = 1.0  # score with a random part of the context in every step
        return [
            fit._step(model, b, optimizer, torch.Generator().manual_seed(i), **loss)
            for i, b in enumerate(stream)
        ]

    here = learn("cpu")
    with Simulated():
        there = learn(DEVICE)
    # the random parts of the context differ between the steps
    assert len({len(known) for known in asked}) > 3
    assert len(asked) == len(here) + len(there)
    for a, b in zip(here, there, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_of_a_training_lie_where_its_model_is(swapping, num_workers):
    model = DefectModel(reference_prior(), num_features=6, num_components=2, hidden=16, width=4)
    sizes = {"seed": 0, "start": 0, "stop": 1536, "batch_size": 512, "num_workers": num_workers}
    here = list(fit._load(model, **sizes))
    with Simulated():
        there = list(fit._load(model.to(DEVICE), **sizes))
        assert len(there) == len(here) == 3
        for a, b in zip(here, there, strict=True):
            assert isinstance(b.intensity, Elsewhere)
            assert float((b.intensity.cpu() / a.intensity - 1).abs().median()) < 1e-6
            assert torch.equal(b.species.cpu(), a.species)
            assert torch.equal(b.context["dose"].cpu(), a.context["dose"])
