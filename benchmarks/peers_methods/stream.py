"""One stream of simulated patches for all methods, kept on disk with what each block cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

import bayesctx as bc
from bayesctx.crystal import HOSTS, METALS
from bayesctx.prior import CONTINUOUS
from bayesctx.simulation import BLOCK, draw_block
from bayesctx.storage import replacing

from .budget import Clock, cpu_seconds

__all__ = ["KNOWN", "SEEDS", "Labelled", "Stream", "single_patches", "standardised"]

PATCHES_PER_IMAGE = 16  # that of bayesctx.train: 7 times as many patches in a second as with 1
SEEDS = {"training": 77_000_000, "validation": 88_000_000, "held out": 99_000_000}
"""Seeds of the streams: to train on, to choose learning rates with, and to score once."""
BLOCKS_PER_FILE = 64
KNOWN = ("host", "dopant", *CONTINUOUS)
"""Variables of the context that may be known."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Patches with their truth.

    Attributes
    ----------
    image : ndarray of float16, shape (patch, y, x)
        Of mean zero and mean square one.
    defect, species, host, dopant : ndarray of int, shape (patch,)
        Indices into ``DEFECTS``, ``SPECIES``, ``HOSTS`` and ``METALS``.
    context : ndarray of float32, shape (patch, 6)
        By ``CONTINUOUS``.
    """

    image: np.ndarray
    defect: np.ndarray
    species: np.ndarray
    host: np.ndarray
    dopant: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.defect)

    def take(self, index: np.ndarray | slice) -> Labelled:
        """Some of the patches."""
        return Labelled(**{n: v[index] for n, v in vars(self).items()})


class Stream:
    """Blocks of patches by number; blocks that do not exist are simulated and kept.

    Parameters
    ----------
    folder : Path
        Where they are kept: files of 64 blocks.
    seed : int
        Of the simulation.
    clock : Clock, optional
        Is charged the CPU seconds that each block cost, once.
    """

    def __init__(self, folder: Path, seed: int, clock: Clock | None = None) -> None:
        self.folder, self.seed, self.clock = Path(folder), seed, clock
        self.charged = 0

    def cost(self) -> float:
        """CPU seconds per patch, the mean over the first file."""
        return float(self._file(0)["cost"].mean()) / BLOCK

    def load(self, num_patches: int) -> Labelled:
        """Return the first patches of the stream, and charge for those not charged before.

        Parameters
        ----------
        num_patches : int
            Is rounded up to whole blocks.

        Returns
        -------
        Labelled
            The patches.
        """
        num_blocks = -(-num_patches // BLOCK)
        files, left = [], num_blocks
        cost = 0.0
        own = cpu_seconds()
        for i in range(-(-num_blocks // BLOCKS_PER_FILE)):
            file, blocks = self._file(i), min(left, BLOCKS_PER_FILE)
            files.append({n: v[: blocks * BLOCK] for n, v in file.items() if n != "cost"})
            first = max(0, self.charged - i * BLOCKS_PER_FILE)
            cost += float(file["cost"][first:blocks].sum())
            left -= blocks
        joined = Labelled(**{n: np.concatenate([f[n] for f in files]) for n in files[0]})
        if self.clock is not None:
            # reading and simulating what the disk did not hold is not the method's own work
            self.clock.charged += cost - (cpu_seconds() - own)
        self.charged = max(self.charged, num_blocks)
        return joined

    def _file(self, index: int) -> Mapping[str, np.ndarray]:
        """The blocks of one file."""
        path = self.folder / f"{self.seed}-{index}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            first = index * BLOCKS_PER_FILE
            blocks = [_simulate(self.seed, first + i) for i in range(BLOCKS_PER_FILE)]
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **{n: np.concatenate([b[n] for b in blocks]) for n in blocks[0]})
        with np.load(path) as found:
            return dict(found)


def _simulate(seed: int, block: int) -> dict[str, np.ndarray]:
    """One block with its cost in CPU seconds."""
    start = cpu_seconds()
    batch = draw_block(bc.tmd_prior(), seed, block, patches_per_image=PATCHES_PER_IMAGE)
    cost = cpu_seconds() - start
    image = batch.intensity.flatten(0, 1).numpy()

    def of_patches(values: object) -> np.ndarray:
        return np.repeat(np.asarray(values), PATCHES_PER_IMAGE, 0)

    return {
        "image": standardised(image),
        "defect": batch.defect.flatten().numpy(),
        "species": batch.species.flatten().numpy(),
        "host": of_patches(batch.host),
        "dopant": of_patches(batch.dopant),
        "context": of_patches(np.stack([batch.context[n] for n in CONTINUOUS], -1)),
        "cost": np.array([cost]),
    }


def standardised(image: np.ndarray) -> np.ndarray:
    """Patches of mean zero and mean square one: gain and dark level are unknown."""
    centred = image - image.mean((-2, -1), keepdims=True)
    scale = np.sqrt(np.square(centred).mean((-2, -1), keepdims=True))
    return (centred / np.maximum(scale, 1e-12)).astype(np.float16)


def single_patches(num_patches: int, seed: int, folder: Path) -> tuple[Labelled, xr.Dataset]:
    """Patches to score on, each an image of its own.

    Parameters
    ----------
    num_patches : int
        How many.
    seed : int
        One of ``SEEDS`` other than that of the training.
    folder : Path
        Where they are kept.

    Returns
    -------
    patches : Labelled
        For the peers; without species.
    data : Dataset
        The same for ``bayesctx.infer``.
    """
    path = folder / f"{seed}-{num_patches}.nc"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = bc.simulate(bc.tmd_prior(), num_patches, seed=seed)
        with replacing(path) as temporary:
            data[["intensity", "defect", *KNOWN, "sampling"]].to_netcdf(temporary)
    data = xr.load_dataset(path)

    def index(name: str, names: tuple) -> np.ndarray:
        return np.array([list(names).index(v) for v in data[name].values])

    patches = Labelled(
        standardised(data.intensity.values),
        index("defect", bc.DEFECTS),
        np.full(num_patches, -1),
        index("host", tuple(HOSTS)),
        index("dopant", METALS),
        np.stack([data[n].values for n in CONTINUOUS], -1).astype(np.float32),
    )
    return patches, data
