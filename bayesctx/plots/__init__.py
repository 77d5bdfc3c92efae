"""Plots of results."""

from .context_panels import plot_context as plot_context
from .figures import new_figure as new_figure
from .reliability_curves import (
    plot_class_reliability as plot_class_reliability,
    plot_reliability as plot_reliability,
)
from .site_map import (
    COLOURS as COLOURS,
    PERFECT as PERFECT,
    on_crystal as on_crystal,
    plot_defects as plot_defects,
)
