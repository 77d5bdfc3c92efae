"""Hostile numbers, and arrays in every type, layout and container."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from PIL import Image

__all__ = [
    "Rng",
    "cast",
    "choose",
    "contain",
    "hostile_number",
    "hostile_object",
    "lay_out",
    "maybe",
]

Rng = np.random.Generator

DTYPES = (
    "?", "i1", "u1", "i2", "u2", ">u2", "i4", ">i4", "u4", "i8", "u8", ">u8", "f2", "f4", ">f4",
    "f8", ">f8", "g", "c8", "c16", "O", "U8", "S8", "M8[s]", "m8[s]", "record",
)  # fmt: skip
COMMON = ("u1", "u2", "i4", "u4", "f4", "f8", "f8", "f4")


def choose(rng: Rng, values: Sequence[object]) -> object:
    """Draw one of some values as it is.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    values : sequence
        To choose from.

    Returns
    -------
    object
        One of them.
    """
    return values[int(rng.integers(len(values)))]


def maybe(rng: Rng, probability: float) -> bool:
    """Draw whether something happens.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    probability : float
        That it does.

    Returns
    -------
    bool
        Whether it does.
    """
    return bool(rng.random() < probability)


def hostile_number(rng: Rng) -> object:
    """Draw a number that few functions expect.

    Parameters
    ----------
    rng : Generator
        Of random numbers.

    Returns
    -------
    object
        A number of any kind, size and type.
    """
    size = float(
        choose(rng, (0.0, 1.0, 3.0, 80.0, 8e4, 1e300, 1e-300, 5e-324, 2.0**31, 2.0**63, 2.0**64))
    )
    plain = size * choose(rng, (1, 1, 1, -1))
    kinds = (
        lambda: plain,
        lambda: int(plain),
        lambda: np.float64(plain),
        lambda: np.float32(min(abs(plain), 3e38)),
        lambda: np.float16(min(abs(plain), 6e4)),
        lambda: np.longdouble(plain),
        lambda: np.int64(min(abs(plain), 2**62)),
        lambda: np.uint64(min(abs(plain), 2**63)),
        lambda: np.int8(min(abs(plain), 100)),
        lambda: Decimal(repr(plain)),
        lambda: Fraction(plain),
        lambda: complex(plain, choose(rng, (0.0, 1.0))),
        lambda: np.complex64(min(abs(plain), 1e30)),
        lambda: choose(rng, (True, False, np.True_, np.False_)),
        lambda: choose(rng, (float("nan"), float("inf"), -float("inf"), np.nan, np.float32("inf"))),
        lambda: choose(rng, (10**400, -(10**400), Decimal("NaN"), Decimal("1e400"), -0.0)),
        lambda: np.array(plain),
        lambda: np.array([plain]),
        lambda: torch.tensor(plain),
        lambda: torch.tensor(plain, dtype=torch.float64, requires_grad=True),
        lambda: torch.tensor(min(abs(plain), 1e30), device="meta"),
        lambda: torch.tensor([plain, plain]),
        lambda: xr.DataArray(plain),
        lambda: pd.Series([plain]),
    )
    return choose(rng, kinds)()


class Awkward:
    """An object whose name in an error would fill several lines."""

    def __repr__(self) -> str:
        """Several lines."""
        return "<awkward\n" + "object\n" * 200 + ">"


def hostile_object(rng: Rng) -> object:
    """Draw an object that stands for no number.

    Parameters
    ----------
    rng : Generator
        Of random numbers.

    Returns
    -------
    object
        Of any kind.
    """
    kinds = (
        lambda: None,
        lambda: choose(
            rng,
            ("", " ", "80", "80e3", "nan", "x" * 5000, "WSe2\n", "WSe2 ", "٨٠", "a\x00b", "%s {}"),
        ),
        lambda: choose(rng, (b"80", b"", bytearray(b"WSe2"), memoryview(b"80"))),
        lambda: choose(
            rng, ([], (), {}, set(), frozenset(), range(0), np.array([]), torch.empty(0))
        ),
        lambda: choose(rng, (object(), Awkward(), Ellipsis, NotImplemented, slice(3), print, int)),
        lambda: [hostile_number(rng) for _ in range(3)],
        lambda: {"low": 1, "high": 2},
        lambda: [[1.0, 2.0], [3.0]],
        lambda: (x for x in (1.0, 2.0)),
        lambda: choose(rng, (datetime.timedelta(1), np.datetime64("2026-01-01"), pd.NA, pd.NaT)),
        lambda: choose(rng, (np.ma.masked, np.void(b"abc"), np.str_("80"), np.bytes_(b"80"))),
        lambda: choose(rng, (xr.Dataset(), xr.DataArray([1.0, 2.0]), pd.DataFrame({"a": [1.0]}))),
        lambda: Path("somewhere"),
        lambda: np.array([None, 1.0], object),
        lambda: {1.0: None}.keys(),
    )
    return choose(rng, kinds)()


def cast(rng: Rng, values: np.ndarray, *, common: float = 0.7) -> tuple[np.ndarray, str]:
    """Bring an array to another type.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    values : ndarray
        Of double precision.
    common : float
        Probability of a type that detectors write.

    Returns
    -------
    values : ndarray
        Integers are counts, from 0 to a limit in the range of the type.
    text : str
        The type.
    """
    name = str(choose(rng, COMMON if maybe(rng, common) else DTYPES))
    if name == "record":
        record = np.zeros(values.shape, [("intensity", "f4")])
        record["intensity"] = np.nan_to_num(values)
        return record, name
    kind = np.dtype(name).kind
    with np.errstate(all="ignore"):
        if kind in "iu":
            low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
            top = float(choose(rng, (1, 20, 120, 2.0**15, 2.0**31, 2.0**62)))
            top = min(top, float(np.iinfo(name).max) * 0.99)
            scaled = (values - low) / max(high - low, 1e-300) * top
            offset = choose(rng, (0.0, 0.0, 0.0, float(np.iinfo(name).max) - 2 * top))
            values = np.nan_to_num(scaled, posinf=top, neginf=0.0) + max(float(offset), 0.0)
            return values.clip(np.iinfo(name).min, np.iinfo(name).max * 0.999).astype(name), name
        if kind == "?":
            return values > np.nanmedian(values), name
        if kind in "mM":
            return np.nan_to_num(values).clip(-1e9, 1e9).astype("i8").astype(name), name
        return values.astype(name), name


def lay_out(rng: Rng, values: np.ndarray, folder: Path) -> tuple[np.ndarray, str]:
    """Lay an array out in memory in an unusual way.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    values : ndarray
        The array.
    folder : Path
        Holds the file of a memory map.

    Returns
    -------
    values : ndarray
        An equal array.
    text : str
        Its layout.
    """
    layout = str(
        choose(
            rng,
            (
                "as it is",
                "as it is",
                "fortran",
                "negative",
                "strided",
                "read-only",
                "mapped",
                "unaligned",
            ),
        )
    )
    if layout == "fortran":
        return np.asfortranarray(values), layout
    if layout == "negative":
        turned = (slice(None, None, -1),) * values.ndim
        return values[turned].copy()[turned], layout
    if layout == "strided" and values.ndim:
        wide = np.zeros(tuple(3 * n for n in values.shape), values.dtype)
        wide[(slice(None, None, 3),) * values.ndim] = values
        return wide[(slice(None, None, 3),) * values.ndim], layout
    if layout == "read-only":
        values = np.array(values)
        values.flags.writeable = False
        return values, layout
    if layout == "mapped" and values.size and values.dtype.kind != "O":
        held = np.lib.format.open_memmap(folder / "map.npy", "w+", values.dtype, values.shape)
        held[...] = values
        held.flush()
        return np.load(folder / "map.npy", mmap_mode=str(choose(rng, ("r", "c", "r+")))), layout
    if layout == "unaligned" and values.dtype.kind in "iufc" and values.size:
        raw = np.zeros(values.nbytes + 1, np.uint8)
        held = raw[1:].view(values.dtype).reshape(values.shape)
        held[...] = values
        return held, layout
    return values, "as it is"


class Picture:
    """What numpy can read without being an array."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        """The values."""
        return self.values if dtype is None else self.values.astype(dtype)


def _torch(rng: Rng, values: np.ndarray) -> torch.Tensor:
    """As a tensor of some type, layout and device."""
    plain = np.ascontiguousarray(np.nan_to_num(values.astype("f8")).clip(-1e30, 1e30))
    tensor = torch.from_numpy(plain)
    kinds = (
        lambda: tensor,
        lambda: tensor.float(),
        lambda: tensor.half(),
        lambda: tensor.bfloat16(),
        lambda: tensor.clone().requires_grad_(),
        lambda: tensor.clamp(0, 200).to(torch.uint8),
        lambda: tensor.long(),
        lambda: tensor > tensor.mean(),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor,
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint32),
        lambda: torch.nested.nested_tensor([tensor.float()]),
        lambda: torch.nn.Parameter(tensor.float()),
    )
    return choose(rng, kinds)()


def contain(rng: Rng, values: np.ndarray, folder: Path) -> tuple[object, str]:
    """Put an array into another container.

    Parameters
    ----------
    rng : Generator
        Of random numbers.
    values : ndarray
        The array.
    folder : Path
        Holds the file of one that is read lazily.

    Returns
    -------
    values : object
        The container, of the array or of something in its place.
    text : str
        What it is.
    """
    dims = ("detector", "image", "patch", "y", "x")[-values.ndim :] if values.ndim else ()
    usual = values.dtype.kind in "iufb" and values.ndim < 6

    def lazy() -> object:
        xr.Dataset({"intensity": (dims, values.astype("f4"))}).to_netcdf(folder / "lazy.nc")
        return xr.open_dataset(folder / "lazy.nc", engine="netcdf4").intensity

    def ragged() -> object:
        rows = values.tolist()
        return (
            [rows[0][:-1], *rows[1:]]
            if isinstance(rows, list) and len(rows) > 1 and isinstance(rows[0], list)
            else rows
        )

    kinds = {
        "list": values.tolist,
        "tuple": lambda: tuple(values.tolist()) if values.ndim else (values.item(),),
        "ragged list": ragged,
        "masked array": lambda: _masked(rng, values),
        "tensor": lambda: _torch(rng, values) if usual else values,
        "matrix": lambda: np.asmatrix(values) if values.ndim == 2 else values,
        "picture": lambda: Picture(values),
        "PIL image": lambda: (
            Image.fromarray(values.astype("u1"))
            if usual and values.ndim == 2 and values.size
            else values
        ),
        "DataArray": lambda: xr.DataArray(values, dims=dims) if values.ndim < 6 else values,
        "masked DataArray": lambda: (
            xr.DataArray(_masked(rng, values), dims=dims) if values.ndim < 6 else values
        ),
        "Dataset": lambda: xr.Dataset({"intensity": (dims, values)}) if values.ndim < 6 else values,
        "Dataset of two": lambda: (
            xr.Dataset({n: (dims, values) for n in "ab"}) if values.ndim < 6 else values
        ),
        "DataTree": lambda: (
            xr.DataTree(xr.Dataset({"intensity": (dims, values)})) if values.ndim < 6 else values
        ),
        "lazy DataArray": lambda: lazy() if usual and values.size else values,
        "DataFrame": lambda: pd.DataFrame(values) if usual and values.ndim == 2 else values,
        "generator": lambda: (row for row in values) if values.ndim else values,
        "in a list": lambda: [values],
        "in an object array": lambda: np.array([values, None], object)[:1],
        "memory view": lambda: memoryview(np.ascontiguousarray(values)) if usual else values,
        "dict": lambda: {"image": values},
        "path": lambda: choose(rng, ("image.npy", folder / "image.npy", b"image.npy")),
        "nothing": lambda: None,
        "object": lambda: hostile_object(rng),
        "number": lambda: hostile_number(rng),
    }
    name = str(choose(rng, list(kinds)))
    return kinds[name](), name


def _masked(rng: Rng, values: np.ndarray) -> np.ma.MaskedArray:
    """With a mask of nothing, of a few values, of a part, or of all."""
    if values.dtype.names:
        return np.ma.MaskedArray(values)
    share = float(choose(rng, (0.0, 0.01, 0.3, 1.0)))
    if maybe(rng, 0.3) and share == 0.0:
        return np.ma.MaskedArray(values, np.ma.nomask)
    mask = rng.random(values.shape) < share
    if share == 0.3 and values.ndim >= 2:
        mask = np.zeros(values.shape, bool)
        mask[..., : values.shape[-1] // 3] = True
    return np.ma.MaskedArray(values, mask)
