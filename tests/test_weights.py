"""Model files: what is written is read back, and every damage is noticed before it is used."""

import errno
import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bayesctx import DefectModel, Prior, load_model, reference_prior, save_model
from bayesctx.encoder import ring_moments
from bayesctx.model import weights
from bayesctx.storage import add_checksum

REFUSED = (
    r"a model written by bayesctx was expected, .* is truncated or foreign \(.*\); write it again"
)


@pytest.fixture(scope="module")
def tiny():
    """The smallest model, with a card of the shipped kind."""
    model = DefectModel(reference_prior(), num_features=1, num_components=1, hidden=1, width=1)
    model.card = {"training": {"seed": 0}, "conflict_limit": 5.0, "note": "Å", "tiny": 1e-05}
    return model.eval()


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    return save_model(tiny, tmp_path_factory.mktemp("model") / "model.safetensors")


def read_card(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["card"])


def rewrite(path, source, change=lambda card: None, tensors=None):
    """A file with another card or other tensors, and a checksum that is right."""
    card = read_card(source)
    del card["sha256"]
    change(card)
    body, tensors = json.dumps(card), load_file(source) if tensors is None else tensors
    save_file(tensors, path, {"card": add_checksum(body, weights._digest(tensors, body))})
    return path


def test_a_model_is_read_back_as_it_was_written(untrained, tmp_path):
    path = save_model(untrained, tmp_path / "model.safetensors")
    copy = load_model(path)
    assert copy.hash() == untrained.hash()
    assert copy.prior == untrained.prior
    patches = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy.encoder(patches), untrained.encoder(patches))
    assert not copy.training
    assert list(tmp_path.iterdir()) == [path]
    again = save_model(copy, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def test_the_card_is_json_with_prior_sizes_and_checksum(written):
    card = read_card(written)
    assert re.fullmatch("[0-9a-f]{64}", card["sha256"])
    assert card["sizes"] == {"num_features": 1, "num_components": 1, "hidden": 1, "width": 1}
    assert Prior.from_dict(card["prior"]) == reference_prior()
    assert "sha256" not in load_model(written).card


def test_flipped_bits_are_noticed(written, tmp_path):
    """All bits of the first and last bytes, one of each byte of the header, some of the tensors."""
    content, path = written.read_bytes(), tmp_path / "flipped"
    header = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    flips = [(i, b) for i in (*range(8), header - 1, header, len(content) - 1) for b in range(8)]
    flips += [(i, int(rng.integers(8))) for i in rng.choice(header, 500, replace=False)]
    flips += [(int(rng.integers(header, len(content))), int(rng.integers(8))) for _ in range(200)]
    for place, bit in flips:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << bit
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=REFUSED):
            load_model(path)


def test_other_spellings_of_the_same_number_are_noticed(written, tmp_path):
    content = written.read_bytes()
    for old, new in ((b"1e-05", b"1E-05"), (b"u00c5", b"u00C5")):
        assert content.count(old) == 1
        (tmp_path / "spelled").write_bytes(content.replace(old, new))
        with pytest.raises(ValueError, match="its checksum is wrong"):
            load_model(tmp_path / "spelled")


def test_truncated_empty_and_foreign_files_are_refused(written, tmp_path):
    content = written.read_bytes()
    foreign = {"half": content[:5000], "cut": content[:-1], "longer": content + b"\0", "empty": b""}
    for name, part in (foreign | {"text": b"weights"}).items():
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=f"{name} is truncated or foreign"):
            load_model(tmp_path / name)
    save_file({"a": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="carries no card"):
        load_model(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nowhere")


def set_size(name, value):
    return lambda card: card["sizes"].update({name: value})


def set_prior(name, value):
    return lambda card: card["prior"].update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_size("width", 20000), r"ask for encoder.layers.0.weight of shape \(20000, 20000\)"),
        (set_size("hidden", 10**5), r"ask for likelihood.net.2.weight of shape"),
        (set_size("num_features", 2), "ask for encoder.layers.2.weight of shape"),
        (set_size("num_components", 10**9), "num_components was expected to be at least 1 and"),
        (set_size("hidden", -1), "hidden was expected to be at least 1"),
        (set_size("hidden", "1"), "hidden was expected as a whole number, got '1'"),
        (set_size("depth", 1), "unknown size of a model 'depth'"),
        (lambda card: card["sizes"].pop("width"), "size of a model 'width' was expected"),
        (lambda card: card.update(sizes=[1]), "a mapping was expected for sizes in the card"),
        (lambda card: card.pop("prior"), "a mapping was expected for prior in the card"),
        (lambda card: card.update(format="bayesctx 3"), "another format"),
        (lambda card: card.update(conflict_limit=float("nan")), "conflict_limit in the card"),
        (lambda card: card.update(surprise_limit="5"), "surprise_limit in the card"),
        (lambda card: card.update(training=3), "training in the card"),
        (set_prior("num_pixels", 48), "other patches than the weights: 48 pixels"),
        (set_prior("num_pixels", 10**9), "num_pixels was expected to be at least 8"),
        (set_prior("hosts", ["MoS3"]), "unknown host 'MoS3'.*did you mean 'MoS2'"),
        (set_prior("nuisances", {"gain": {"enable_validation": [False]}}), "a distribution among"),
    ],
)
def test_a_card_that_does_not_fit_is_refused_before_it_is_used(change, message, written, tmp_path):
    path = rewrite(tmp_path / "changed", written, change)
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert torch.distributions.Distribution._validate_args


def test_absurd_sizes_are_refused_without_their_memory(written, tmp_path):
    """A model of that width takes 1.6 GB for one of its matrices."""
    path = rewrite(tmp_path / "wide", written, set_size("width", 20000))
    assert path.stat().st_size < 320_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="the sizes of the card ask for"):
        load_model(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**5  # KiB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"correlation": torch.tensor(float("nan"))}),
            "'correlation' is not finite",
        ),
        (lambda t: t.pop("likelihood.width"), "Missing key"),
        (lambda t: t.update(more=torch.ones(1)), "Unexpected key"),
        (lambda t: t.pop("encoder.even.weight"), "other patches than the weights"),
        (lambda t: t.pop("likelihood.net.2.weight"), "there is none"),
        (lambda t: t.update(a=torch.ones(2, dtype=torch.bfloat16)), "'a' is of type BF16"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, written, tmp_path):
    tensors = load_file(written)
    change(tensors)
    if "a" in tensors:
        save_file(tensors, tmp_path / "changed", {"card": "{}"})
    else:
        rewrite(tmp_path / "changed", written, tensors=tensors)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "changed")


def test_a_file_from_before_the_checksum_is_read_with_a_warning(tiny, written, tmp_path):
    card = read_card(written)
    del card["sha256"]
    card["format"] = "bayesctx 1"
    card["prior"]["concentration"] = card["prior"].pop("dirichlet_alpha")
    save_file(load_file(written), tmp_path / "old", {"card": json.dumps(card)})
    with pytest.warns(UserWarning, match="old has no checksum.*write it again with save_model"):
        old = load_model(tmp_path / "old")
    assert old.hash() == tiny.hash()
    assert old.prior == tiny.prior


ROOT = Path(weights.__file__).parents[2]
SHIPPED = [ROOT / "bayesctx" / "reference.safetensors", *ROOT.glob("benchmarks/models/*")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_models_carry_a_checksum(path):
    assert "sha256" in read_card(path)
    assert load_model(path).card["format"] == weights.FORMAT


@pytest.mark.parametrize("num_pixels", [8, 31, 32, 48])
def test_moments_are_counted_as_the_encoder_makes_them(num_pixels):
    assert weights._num_moments(num_pixels) == len(ring_moments(num_pixels)[1])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(tiny, tmp_path, monkeypatch, error):
    path = save_model(tiny, tmp_path / "model.safetensors")
    before = path.read_bytes()

    def fail(tensors, metadata):
        raise error

    monkeypatch.setattr(weights, "save", fail)
    with pytest.raises(type(error)):
        save_model(tiny, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere; create it first"):
        save_model(tiny, tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.parametrize("thing", [None, "model.safetensors", {}], ids=["None", "str", "dict"])
def test_only_models_are_saved(thing, tmp_path):
    with pytest.raises(TypeError, match="a DefectModel was expected, got .*; train or load one"):
        save_model(thing, tmp_path / "x.safetensors")
