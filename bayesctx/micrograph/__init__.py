"""From an image to its lattice, from the lattice to its sites, from the sites to patches."""

from .diagnosis import Finding as Finding, diagnose as diagnose
from .extension import extend_image as extend_image, has_own_pixels as has_own_pixels
from .intensities import check_image as check_image, standardize as standardize
from .lattice import Lattice as Lattice, fit_lattice as fit_lattice
from .regions import Crystal as Crystal, Region as Region, find_crystal as find_crystal
from .sites import (
    extract_patches as extract_patches,
    find_sites as find_sites,
    patch_margin as patch_margin,
)
