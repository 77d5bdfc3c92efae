"""Compute the table of column responses: python -m bayesctx.multislice FILE [PART NUM_PARTS]."""

from __future__ import annotations

import sys

import torch

from .tabulation import tabulate

if __name__ == "__main__":
    torch.set_num_threads(1)
    part, num_parts = (int(a) for a in sys.argv[2:4]) if len(sys.argv) > 3 else (0, 1)
    tabulate(sys.argv[1], part=part, num_parts=num_parts)
