"""Posteriors of defects in STEM images of doped two-dimensional materials, given their context.

Names are listed in ``__init__.pyi`` and loaded when first used, so that ``import bayesctx`` takes
neither torch nor Pyro.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
