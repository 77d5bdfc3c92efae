import numpy as np
import torch

from bayesctx.multislice import fit_response, scattering_kernel
from bayesctx.optics import bilinear, chebyshev, wavelength
from bayesctx.responses import NUM_ORDERS


def test_fit_reproduces_the_kernel():
    edges = (60.0, 100.0, 200.0)
    kernel = scattering_kernel((("Se", -1.67), ("Se", 1.67)), 80e3, edges, num_waves=64)
    coefficients = fit_response(kernel, 80e3, edges)
    assert coefficients.shape == (2, 6, 8)
    scale = wavelength(80e3) / 40e-3
    p = torch.from_numpy((kernel.k**2).sum(1) * scale**2)
    q = torch.from_numpy(np.linalg.norm(kernel.k[:, None] - kernel.k, axis=-1) * scale / 2)
    terms = torch.stack(
        bilinear([p[:, None] ** m for m in range(3)], [p[None] ** m + 0j for m in range(3)])
    )
    polynomials = chebyshev(q, NUM_ORDERS).to(terms)
    fitted = torch.einsum(
        "rtn,nij,tij->rij", torch.from_numpy(coefficients).to(terms), polynomials, terms
    ).numpy()
    inside = p.sqrt().numpy() < 0.9
    for ring in range(2):
        error = (fitted - kernel.values)[ring][np.ix_(inside, inside)]
        assert np.linalg.norm(error) < 0.01 * np.linalg.norm(
            kernel.values[ring][np.ix_(inside, inside)]
        )
