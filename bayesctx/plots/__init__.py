"""Plots of results."""

from .figures import new_figure as new_figure
from .panels import (
    plot_class_reliability as plot_class_reliability,
    plot_context as plot_context,
    plot_reliability as plot_reliability,
)
from .site_map import on_crystal as on_crystal, plot_defects as plot_defects
from .site_values import plot_change as plot_change, plot_map as plot_map
from .symbols import COLOURS as COLOURS, MARKERS as MARKERS, PERFECT as PERFECT
