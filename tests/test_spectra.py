import numpy as np
import pytest
import torch
from samples import quiet

from bayesctx import Detector, Probe, column_image
from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import SPECIES, columns_of
from bayesctx.prior import CONTINUOUS
from bayesctx.raster import synthesize
from bayesctx.simulation.rendering import BOX
from bayesctx.simulation.scene import Scene
from bayesctx.simulation.spectra import detector_spectra, image_spectra, patch_spectra


def test_patch_is_the_sum_of_its_columns():
    """Spectra of the simulator against ``column_image`` of the same columns."""
    image = {
        "host": torch.tensor([list(HOSTS).index("MoS2")]),
        "dopant": torch.tensor([METALS.index("W")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (80e3, 30.0, 60.0, 200.0, 20.0, 1e5), strict=True)
    }
    spectra = image_spectra(image, quiet(), torch.zeros(1, len(SPECIES)), cell=(BOX, BOX))
    species = {
        d: next(i for i, s in enumerate(SPECIES) if s.defect == d)
        for d in ("M", "X2", "D_M", "V_X")
    }
    positions = torch.tensor([[[[[0.0, 0.0], [3.0, 0.5]], [[0.1, 1.8], [2.0, -2.0]]]]])
    scene = Scene(
        positions,
        torch.ones(1, 1, 2, 2),
        torch.tensor([[[[-2.0, 1.0], [1.0, 3.0]]]]),
        torch.tensor([[[species["D_M"], species["V_X"]]]]),
        torch.tensor([[[1.0, 1.0]]]),
    )
    axis = torch.linspace(-4, 4, 9)
    fast = synthesize(patch_spectra(spectra, scene, cell=(BOX, BOX)), axis, axis, cell=(BOX, BOX))[
        0, 0
    ]
    s2, vacancy = columns_of("X2", "MoS2", "W")[0], columns_of("V_X", "MoS2", "W")[0]
    columns = [
        (0.0, 0.0, [("Mo", 0.0)]),
        (3.0, 0.5, [("Mo", 0.0)]),
        (0.1, 1.8, s2),
        (2.0, -2.0, s2),
        (-2.0, 1.0, [("W", 0.0)]),
        (1.0, 3.0, vacancy),
    ]
    slow = column_image(
        columns,
        Probe(80e3, 30.0, {"C10": -20.0}, source_size=0.8),
        Detector(60.0, 200.0),
        x=axis.numpy(),
        y=axis.numpy(),
        cell=(BOX, BOX),
        interference=False,
    )
    # they differ by the band limit of 1.8 1/Å and single precision
    assert np.abs(fast.numpy() - slow.values).max() < 1e-3 * slow.values.max()


@pytest.mark.parametrize(
    ("energy", "source", "limit"), [(80e3, 0.9, 0.002), (200e3, 0.8, 0.002), (300e3, 0.5, 0.02)]
)
def test_box_and_bandwidth_of_a_patch_suffice(energy, source, limit):
    """Patch of the simulator against a wide crystal at full bandwidth, with free gain and offset.

    The small cell adds the tails of the probe as a constant. At 300 keV with the smallest source of
    the prior the band limit is noticeable.
    """
    axis = torch.arange(-4, 4.1, 0.25)
    lattice = [
        (x, y, d)
        for d, shift in (("M", 0.0), ("X2", 1.836))
        for i in range(-9, 10)
        for j in range(-9, 10)
        for x, y in [((i + j / 2) * 3.18, j * 2.754 + shift)]
        if np.hypot(x, y) < 16
    ]
    wide = column_image(
        [(x, y, columns_of(d, "MoS2", "W")[0]) for x, y, d in lattice],
        Probe(energy, 30.0, source_size=source),
        Detector(60.0, 200.0),
        x=axis.numpy(),
        y=axis.numpy(),
        cell=(60.0, 60.0),
        interference=False,
    ).values.ravel()
    image = {
        "host": torch.tensor([list(HOSTS).index("MoS2")]),
        "dopant": torch.tensor([METALS.index("W")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (energy, 30.0, 60.0, 200.0, 0.0, 1e5), strict=True)
    }
    spectra = image_spectra(
        image,
        quiet() | {"source_size": torch.tensor([source])},
        torch.zeros(1, len(SPECIES)),
        cell=(BOX, BOX),
    )
    inside = [
        (x, y, d) for x, y, d in lattice if max(abs(x), abs(y)) < BOX / 2 and np.hypot(x, y) < 9.6
    ]
    sites = [torch.tensor([(x, y) for x, y, d in inside if d == kind]) for kind in ("M", "X2")]
    most = max(map(len, sites))
    positions = torch.stack([torch.nn.functional.pad(p, (0, 0, 0, most - len(p))) for p in sites])[
        None, None
    ]
    weights = torch.stack([(torch.arange(most) < len(p)).float() for p in sites])[None, None]
    nothing = torch.zeros(1, 1, 1)
    scene = Scene(positions, weights, torch.zeros(1, 1, 1, 2), nothing.long(), nothing)
    small = (
        synthesize(patch_spectra(spectra, scene, cell=(BOX, BOX)), axis, axis, cell=(BOX, BOX))
        .numpy()
        .ravel()
    )
    matched = np.polyval(np.polyfit(small, wide, 1), small)
    assert np.sqrt(((matched - wide) ** 2).mean() / wide.var()) < limit


def test_tilted_patch_is_the_sum_of_its_sheared_columns():
    """Every species of the simulator, sheared, against column_image of the same column."""
    image = {
        "host": torch.tensor([list(HOSTS).index("WSe2")]),
        "dopant": torch.tensor([METALS.index("Ti")]),
    } | {
        n: torch.tensor([v])
        for n, v in zip(CONTINUOUS, (80e3, 28.0, 50.0, 180.0, 0.0, 1e5), strict=True)
    }
    tilt = {"tilt": torch.tensor([4.0]), "tilt_azimuth": torch.tensor([0.7])}
    spectra = image_spectra(image, quiet() | tilt, torch.zeros(1, len(SPECIES)), cell=(BOX, BOX))[0]
    axis = torch.arange(-1.5, 1.6, 0.3)
    for response, species in zip(spectra, SPECIES, strict=True):
        column = species.column("WSe2", "Ti")
        slow = column_image(
            [(0.0, 0.0, column)],
            Probe(80e3, 28.0, source_size=0.8),
            Detector(50.0, 180.0),
            x=axis.numpy(),
            y=axis.numpy(),
            cell=(BOX, BOX),
            tilt=(4.0 * np.cos(0.7), 4.0 * np.sin(0.7)),
            interference=False,
        ).values
        # band limit, and tan(4 cos 0.7) for tan(4) cos 0.7; 6 % rms for the closed form of pairs
        limit = 0.06 if len(column) == 2 else 2e-3
        assert (
            np.abs(synthesize(response, axis, axis, cell=(BOX, BOX)).numpy() - slow).max()
            <= limit * slow.max()
        )


@pytest.mark.parametrize("tilt", [0.0, 3.0])
def test_spectra_of_some_species_are_those_among_all(tilt):
    values = (80e3, 28.0, 50.0, 180.0, 10.0, 1e5)
    image = {n: torch.tensor([v]) for n, v in zip(CONTINUOUS, values, strict=True)}
    image |= {"host": torch.tensor([0]), "dopant": torch.tensor([METALS.index("V")])}
    rings = {n: image[n][:, None] for n in ("inner_collection_angle", "outer_collection_angle")}
    nuisances = quiet() | {"tilt": torch.tensor([tilt]), "tilt_azimuth": torch.tensor([0.4])}
    given = image | rings, nuisances, torch.zeros(1, 1, len(SPECIES))
    cell = {"cell": (BOX, BOX), "num_modes": (12, 12)}
    every, kept = detector_spectra(*given, **cell), [9, 0, 4, 13]
    some = detector_spectra(*given, **cell, kept=kept)
    assert torch.allclose(some, every[:, :, kept], rtol=1e-5, atol=1e-9)
