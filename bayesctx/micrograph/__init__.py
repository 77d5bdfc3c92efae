"""From an image to its lattice, from the lattice to its sites, from the sites to patches."""

from .diagnosis import (
    Finding as Finding,
    diagnose as diagnose,
    find_blemishes as find_blemishes,
)
from .grains import label_grains as label_grains
from .intensities import check_image as check_image, standardize as standardize
from .lattice import Lattice as Lattice, fit_lattice as fit_lattice
from .regions import Crystal as Crystal, Region as Region, find_crystal as find_crystal
from .sites import (
    extend_image as extend_image,
    extract_patches as extract_patches,
    find_sites as find_sites,
    has_own_pixels as has_own_pixels,
    patch_margin as patch_margin,
)
