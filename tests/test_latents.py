import numpy as np

from bayesctx import reference_prior, tmd_prior
from bayesctx.simulation import BLOCK, draw_block


def test_classes_are_equally_probable():
    defects = np.concatenate(
        [draw_block(tmd_prior(), 3, b, patches_per_image=64).defect.ravel() for b in range(20)]
    )
    share = np.bincount(defects, minlength=13) / len(defects)
    # 1280 draws: standard error sqrt(1/13 / 1280) = 0.0078, four of them
    assert np.abs(share - 1 / 13).max() < 0.031


def test_images_share_their_context():
    block = draw_block(reference_prior(), 0, 0, patches_per_image=16)
    assert block.intensity.shape == (BLOCK // 16, 16, 32, 32)
    assert block.context["dose"].shape == (BLOCK // 16,)
    assert block.defect.shape == (BLOCK // 16, 16)
