import hashlib
import math

import numpy as np
import pytest

from bayesctx.multislice import scattering_factor
from bayesctx.multislice.atoms import _lobato, transmission
from bayesctx.optics import lorentz_factor, wavelength


def test_scattering_factors_meet_the_mott_bethe_limit():
    """Limit of large angles: sum a / b = Z / (2 pi² a0) for every row of the published table."""
    bohr = 0.529177
    for number, (a, b) in enumerate(_lobato().values(), 1):
        assert (a / b).sum() == pytest.approx(number / (2 * math.pi**2 * bohr), rel=1e-6)


def test_rows_of_the_published_table():
    # Lobato and Van Dyck (2014), table 1: tungsten and selenium
    a, b = _lobato()["W"]
    assert a[:2] == pytest.approx([3.97629715819077, 1.52292684257341])
    assert b[:2] == pytest.approx([6.29685779228774, 1.11289951157691])
    assert scattering_factor("Se", np.array([0.0])) == pytest.approx(2 * sum(_lobato()["Se"][0]))


def test_light_atom_is_in_the_first_born_approximation():
    g = np.array([0.5, 1.0, 2.0])
    born = lorentz_factor(300e3) * wavelength(300e3) * scattering_factor("O", g)
    # the second Born term is of the order of the phase, Z alpha / beta = 0.08
    assert transmission("O", 300e3, 5.0)(g).imag == pytest.approx(born, rel=0.02)


def test_all_scattering_factors_are_physical():
    """f and the X-ray factor, Z at g = 0, fall monotonically; the electron density is positive."""
    bohr, g, r = 0.529177210903, np.linspace(0, 12, 601), np.geomspace(1e-3, 12, 601)
    assert len(_lobato()) == 103
    for number, (element, (a, b)) in enumerate(_lobato().items(), 1):
        electron = scattering_factor(element, g)
        # Mott-Bethe: f_e = (Z - f_x) / (2 pi² a0 g²)
        xray = 2 * np.pi**2 * bohr * (a / b / (1 + b * g[:, None] ** 2) ** 2).sum(-1)
        assert np.allclose(
            electron[1:], (number - xray[1:]) / (2 * np.pi**2 * bohr * g[1:] ** 2), rtol=1e-5
        )
        assert xray[0] == pytest.approx(number, rel=1e-8)
        assert electron[-1] > 0
        assert xray[-1] > 0
        assert (np.diff(electron) < 0).all()
        assert (np.diff(xray) < 0).all()
        # the density up to a factor: a decaying exponential for every term
        assert ((a * b**-2.5 * np.exp(-2 * np.pi * r[:, None] / np.sqrt(b))).sum(-1) > 0).all()


def test_scattering_factors_have_their_checksum():
    """Eight digits of all 1030 numbers, equal to an independent copy of the published table."""
    text = "\n".join(
        f"{e} {' '.join(f'{v:.7e}' for v in (*a, *b))}" for e, (a, b) in _lobato().items()
    )
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "66fab0df592a9ed628050c56737bab2214c9e8016940c8ce8f0753e68bb7d49d"
    )
