"""Plots of results."""

from .figures import new_figure as new_figure
from .panels import (
    plot_class_reliability as plot_class_reliability,
    plot_context as plot_context,
    plot_reliability as plot_reliability,
)
from .site_map import (
    COLOURS as COLOURS,
    PERFECT as PERFECT,
    on_crystal as on_crystal,
    plot_defects as plot_defects,
)
