"""From an image to its lattice, from the lattice to its sites, from the sites to patches."""

from .lattice import Lattice as Lattice, check_image as check_image, fit_lattice as fit_lattice
from .sites import (
    extend_image as extend_image,
    extract_patches as extract_patches,
    find_sites as find_sites,
    patch_margin as patch_margin,
)
