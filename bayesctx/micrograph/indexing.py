"""Indexing of a power spectrum: which of its peaks are the first order of the crystal."""

from __future__ import annotations

import math

import numpy as np

from .cell import MIN_CELLS, NESTED, REFLECTIONS, SHELLS, cell_constant, largest_stretch, stretch
from .spectrum import Spectrum, measure_spectrum

__all__ = ["MIN_SIGNAL_TO_NOISE", "check_cell", "index_spectrum"]

NOISE = 10.0  # times the background: what the strongest of all speckles reaches
SATURATED = 30.0  # times that: how much higher a peak is than this says nothing about the cell
MIN_SIGNAL_TO_NOISE = 14.0  # white noise stays below 9, any other noise below 13
TIE, MOST = 2.0, 200  # of the score, and of the candidates that are compared
MIN_COMPACT = 3.0  # first order over the strongest power around it; streaks 1, lattices 6 and more
MIN_FIRST_ORDER = 0.03  # power of the first order over the strongest peak beyond it
FILTERED = 0.01  # of the background that it has beside it: what a filter has left
ASPECTS = (1.19, 0.84, 1.41, 0.71, 1.68, 0.59, 2.0, 0.5)  # height of a pixel over its width
MAX_ASPECT, MAX_REST = 2.2, 1.08  # of pixels, and the strain that is left
MIN_EXPLAINED = 0.5  # of the power of all peaks, by a lattice of pixels that are not square
MARGIN = 0.1  # by which it must explain more than one of square pixels
MILD_STRETCH = 1.06  # of a cell that needs no other explanation
MAX_STRETCH = 1.17  # of a cell that is still called hexagonal: drift and strain stay below 1.1

# a cell 3 or 4 times too large for a crystal with a superstructure: its reflections that are not
# of the crystal, one of the crystal that is at about their mean distance, and the least ratio of
# their powers. 1H gives more than 0.09 and 5, three sublattices of 1, 0.8 and 0.6 in height 0.023,
# every third or fourth metal higher by 0.3 less than 0.014 and 0.012
SUPERSTRUCTURES = ((SHELLS[[0, 2]], SHELLS[1], 0.018), (SHELLS[:2], SHELLS[2], 0.5))

# lattices of so few cells that the power spectrum has no peaks of their own
SIDE = 48  # px, to which an image is reduced: eight a cell
FEWEST, STEP = 2.2, 0.2  # cells along the shorter side
TURN_STEP = 0.25  # cycles over the image, at the first order
# share of the variance, and best over median of the turns: no noise reaches both, crystals of more
# than three cells give 0.05 to 0.9 and 8 to 200
MIN_SHARE, MIN_CONTRAST = 0.03, 7.0


def index_spectrum(flat: np.ndarray) -> tuple[np.ndarray, float]:
    """Find the lattice of an image in its power spectrum.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.

    Returns
    -------
    basis : ndarray, shape (2, 2)
        Reciprocal vectors as rows (y, x) in cycles per px, 120 degrees apart.
    signal_to_noise : float
        Power of the first-order reflections over the background around them.

    Raises
    ------
    ValueError
        If nothing in the spectrum is a hexagonal lattice of six cells or more along each side.

    Notes
    -----
    Three peaks that are the first order of a hexagonal lattice within several per cent of strain
    are a candidate. It is scored by how many of its reflections stand out, not by how far: in an
    image of little noise, the second order may stand out further than the first. Of lattices that
    contain each other, the largest cell whose additional reflections are as strong as those of
    atoms is taken; what is weaker is a superstructure.
    """
    spectrum = measure_spectrum(flat)
    basis, signal_to_noise = _best_candidate(spectrum, 1.0)
    found = signal_to_noise >= MIN_SIGNAL_TO_NOISE
    if not found or largest_stretch(np.linalg.inv(basis).T)[0] > MILD_STRETCH:
        explained = _explained(basis[None], spectrum)[0] + MARGIN if found else MIN_EXPLAINED
        _check_pixels(spectrum, explained)
    basis = basis / len(spectrum.power)
    _check_size(flat, basis if found else None)
    if not found:
        best = f"one of {signal_to_noise:.1f}" if signal_to_noise > 0 else "none"
        raise ValueError(
            f"a hexagonal lattice with a signal-to-noise ratio of {MIN_SIGNAL_TO_NOISE:g} in the "
            f"power spectrum was expected, got {best}; check that columns of atoms 5 to 60 px "
            f"apart can be seen, crop the image to the crystal, or record {MIN_CELLS} lattice "
            "constants or more"
        )
    return basis, signal_to_noise


def check_cell(vectors: np.ndarray) -> None:
    """Check that a cell is hexagonal.

    Parameters
    ----------
    vectors : ndarray, shape (2, 2)
        Lattice vectors in px as rows (y, x), about 60 degrees apart.

    Raises
    ------
    ValueError
        If it is stretched by more than 17 %; the message says by how much pixels may be higher
        than wide.
    """
    if largest_stretch(vectors)[0] < MAX_STRETCH:
        return
    # the two shortest vectors in pixels need not be those of the crystal
    steps = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 4), -1).reshape(-1, 2, 2)
    cells = steps[np.rint(np.linalg.det(steps)) == 1] @ vectors
    aspects = [_fit_aspect(cell) for cell in cells]
    rests = [largest_stretch(cell * (r, 1))[0] for cell, r in zip(cells, aspects, strict=True)]
    likely = [1 / MAX_ASPECT < aspect < MAX_ASPECT for aspect in aspects]
    best = int(np.argmin(np.where(likely, rests, np.inf)))
    aspect = aspects[best]
    if likely[best] and rests[best] < MAX_REST:
        high, wide = ("high", "wide") if aspect > 1 else ("wide", "high")
        raise ValueError(
            "a hexagonal lattice in square pixels was expected, got one of pixels "
            f"{max(aspect, 1 / aspect):.2f} times as {high} as {wide}; resample the image to "
            "square pixels"
        )
    ratio, angle = min(map(largest_stretch, cells))
    raise ValueError(
        f"a hexagonal lattice was expected, got one stretched {ratio:.2f} times at {angle:.0f} "
        "degrees to the x axis; correct the distortion of the scan, or check the crystal"
    )


def _fit_aspect(vectors: np.ndarray) -> float:
    """Height of a pixel over its width that makes a lattice hexagonal, or nearly so."""
    deformation = stretch(vectors)
    squares = (deformation @ deformation).diagonal()
    return math.sqrt(squares[1] / squares[0])


def _best_candidate(spectrum: Spectrum, aspect: float) -> tuple[np.ndarray, float]:
    """Basis in bins that explains the peaks best if pixels have an aspect, and its SNR."""
    peaks = spectrum.peaks
    plane = peaks @ [1j / aspect, 1]
    ratio = plane / plane[:, None]
    # p, q and q - p are the first order of a lattice that may be strained by several per cent
    hexagon = np.abs(np.angle(ratio, deg=True) - 60) < 10
    for length in (np.abs(ratio), np.abs(ratio - 1)):
        hexagon &= (length > 0.82) & (length < 1.22)
    first, second = np.nonzero(hexagon)
    if not len(first):
        return np.eye(2), 0.0
    candidates = np.stack([peaks[first], peaks[second] - peaks[first]], 1)
    score, signal_to_noise = _score(candidates, spectrum)
    # of those whose reflections are all there, the one that leaves no other strong peaks
    good = np.argsort(-score)[:MOST]
    good = good[score[good] >= score[good[0]] - TIE]
    best = good[np.argmax(_explained(candidates[good], spectrum))]
    return _largest_cell(spectrum, candidates[best], float(signal_to_noise[best]))


def _check_size(flat: np.ndarray, basis: np.ndarray | None) -> None:
    """Raise an error if an image holds too few cells of the lattice or of a larger one."""
    side = min(flat.shape)
    num_cells = 0.0 if basis is None else side / cell_constant(np.linalg.inv(basis))
    if num_cells < MIN_CELLS:
        num_cells = _search_few_cells(flat) or num_cells
    else:
        least = 2 * _first_order_share(flat, basis)
        for ratio, step in NESTED.items():
            larger = num_cells / math.sqrt(abs(ratio))
            if larger < MIN_CELLS and _first_order_share(flat, step @ basis) > least:
                num_cells = larger
                break
    if 0 < num_cells < MIN_CELLS:
        raise ValueError(
            f"at least {MIN_CELLS} lattice constants along each side were expected, got "
            f"{num_cells:.1f} ({side / num_cells:.0f} px in {flat.shape[0]} x {flat.shape[1]}), "
            f"fewer than {MIN_CELLS}; record a larger field of view"
        )


def _check_pixels(spectrum: Spectrum, explained: float) -> None:
    """Raise an error if a lattice of pixels that are not square explains more of the peaks."""
    best = None
    for aspect in ASPECTS:
        basis, signal_to_noise = _best_candidate(spectrum, aspect)
        share = _explained(basis[None], spectrum)[0]
        # there is more to choose from, and so more chance
        if signal_to_noise >= 2 * MIN_SIGNAL_TO_NOISE and share > explained:
            best, explained = basis, share + MARGIN / 10
    if best is not None:
        check_cell(np.linalg.inv(best).T)


def _largest_cell(
    spectrum: Spectrum, basis: np.ndarray, signal_to_noise: float
) -> tuple[np.ndarray, float]:
    """Replace a basis by that of the largest cell around its own that passes the same tests."""
    for _ in range(3):
        candidates = np.stack([step @ basis for step in NESTED.values()])
        _, found = _score(candidates, spectrum)
        # so near to each other reflections are not told apart
        found *= np.linalg.norm(candidates[:, 0], axis=-1) > MIN_CELLS
        if found.max() < MIN_SIGNAL_TO_NOISE:
            break
        basis, signal_to_noise = candidates[np.argmax(found)], float(found.max())
    return basis, signal_to_noise


def _explained(candidates: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Share of the power of strong peaks on lattices, shape (candidate, 2, 2) in bins."""
    peaks = spectrum.peaks
    power = _look_up(spectrum.highest, peaks)
    power = power * (power > MIN_SIGNAL_TO_NOISE * _look_up(spectrum.background, peaks))
    orders = peaks @ np.linalg.inv(candidates)
    off = np.linalg.norm((orders - np.rint(orders)) @ candidates, axis=-1)
    return (power * (off < 1.5)).sum(-1) / max(power.sum(), 1e-30)


def _look_up(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Values of a spectrum at bins (..., 2) from zero frequency."""
    half = len(values) // 2
    y, x = np.moveaxis(np.rint(bins).astype(int).clip(-half, half - 1) + half, -1, 0)
    return values[y, x]


def _score(candidates: np.ndarray, spectrum: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """How well candidates, shape (candidate, 2, 2) in bins, explain a spectrum, and their SNR."""
    power, background, peaks = spectrum.power, spectrum.background, spectrum.peaks
    half = len(power) // 2
    bins = (REFLECTIONS @ candidates).reshape(-1, *SHELLS.shape)
    # the peaks of a higher order may lie a bin off
    inside = (np.abs(bins) < half - 0.5).all(-1)
    height = np.where(inside, _look_up(spectrum.highest, bins), 0.0)
    snr = (height / _look_up(background, bins)).clip(min=1.0)
    evidence = np.log(snr / NOISE).clip(max=math.log(SATURATED))
    score = evidence[:, 0].sum(-1) + evidence[:, 1:].clip(min=0).sum((-1, -2))
    # a single strong peak, from a stripe, makes no lattice
    strength = np.minimum(snr[:, 0], 3 * np.median(snr[:, 0], -1, keepdims=True))
    length = np.linalg.norm(bins[:, 0], axis=-1)
    further = np.linalg.norm(peaks, axis=-1) > 0.8 * length.max(-1, keepdims=True)
    strongest = (further * _look_up(spectrum.highest, peaks)).max(-1)
    rejected = height[:, 0].mean(-1) < MIN_FIRST_ORDER * strongest
    # the streak of an edge has no peaks
    turns = np.stack([f(2 * np.pi * np.arange(16) / 16) for f in (np.sin, np.cos)], -1)
    circle = bins[:, 0, :, None] + (0.4 * length).clip(max=5.0)[..., None, None] * turns
    rejected |= np.median(height[:, 0] / _look_up(power, circle).max(-1), -1) < MIN_COMPACT
    rejected |= _has_superstructure(candidates, spectrum)
    signal_to_noise = np.exp(np.log(strength).mean(-1))
    return np.where(rejected, -np.inf, score), np.where(rejected, 0.0, signal_to_noise)


def _has_superstructure(candidates: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Whether candidates, shape (candidate, 2, 2) in bins, are cells of a superstructure."""
    half = len(spectrum.power) // 2
    found = np.zeros(len(candidates), bool)
    for others, crystal, least in SUPERSTRUCTURES:
        orders = np.concatenate([others, crystal[None]])
        bins = (orders.reshape(-1, 2) @ candidates).reshape(-1, *orders.shape)
        background = _look_up(spectrum.background, bins)
        # the highest of nine bins of noise is 2.8 times the background
        power = (_look_up(spectrum.highest, bins) - 2.8 * background).mean(-1)
        power = np.log(np.maximum(power, 0.5 * background[:, -1:].mean(-1)))
        # a filter may end between the shells
        cut = background[:, :-1].mean(-1) < FILTERED * background[:, -1:].mean(-1)
        power[:, :-1] = np.where(cut, power[:, -1:], power[:, :-1])
        weak = power[:, :-1].mean(-1) - power[:, -1] < math.log(least)
        found |= weak & (np.abs(bins) < half - 1).all((-1, -2, -3))
    return found


def _search_few_cells(flat: np.ndarray) -> float:
    """Lattice constants along the shorter side, if there are two to six; 0 if there is none."""
    small = _reduce(flat)
    best = (0.0, 0.0)
    for num_cells in np.arange(FEWEST, MIN_CELLS + STEP / 2, STEP):
        radius = 2 / math.sqrt(3) * num_cells / min(small.shape)
        num_turns = math.ceil(radius * min(small.shape) * (math.pi / 3) / TURN_STEP)
        angles = np.arange(num_turns) * (math.pi / 3 / num_turns) + [[0], [2 * math.pi / 3]]
        bases = radius * np.stack([np.sin(angles), np.cos(angles)], -1).swapaxes(0, 1)
        shares = np.array([_share(small, basis) for basis in bases])
        if shares.max() > max(best[1], MIN_SHARE, MIN_CONTRAST * np.median(shares)):
            best = (float(num_cells), float(shares.max()))
    return best[0]


def _first_order_share(flat: np.ndarray, basis: np.ndarray) -> float:
    """Share of the variance of an image, reduced to 48 pixels a side, in its first order."""
    small = _reduce(flat)
    return _share(small, basis * (min(flat.shape) // SIDE or 1))


def _reduce(flat: np.ndarray) -> np.ndarray:
    """Mean of square blocks of pixels, less a parabola, of unit variance."""
    step = min(flat.shape) // SIDE or 1
    height, width = (n // step for n in flat.shape)
    small = flat[: height * step, : width * step].reshape(height, step, width, step).mean((1, 3))
    y, x = (np.linspace(-1, 1, n) for n in small.shape)
    powers = [np.outer(y**i, x**j).ravel() for i in range(3) for j in range(3 - i)]
    plane = np.stack(powers, -1)
    rest = small.ravel() - plane @ np.linalg.lstsq(plane, small.ravel(), rcond=None)[0]
    return (rest / max(rest.std(), 1e-20)).reshape(small.shape)


def _share(small: np.ndarray, basis: np.ndarray) -> float:
    """Three times the geometric mean of the shares of the variance of three waves."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in small.shape)
    waves = [
        np.outer(np.exp(2j * np.pi * q[0] * y), np.exp(2j * np.pi * q[1] * x)).ravel()
        for q in SHELLS[0] @ basis
    ]
    columns = np.stack([part for w in waves for part in (w.real, w.imag)], -1)
    columns = columns - columns.mean(0)
    normal = columns.T @ columns
    ridge = 1e-3 * np.trace(normal) / 6 * np.eye(6)
    found = np.linalg.solve(normal + ridge, columns.T @ small.ravel())
    power = (found.reshape(3, 2) ** 2).sum(-1) / 2
    return float(3 * np.exp(np.log(power + 1e-12).mean()))
