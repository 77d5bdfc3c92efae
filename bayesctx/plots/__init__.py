"""Pictures of results: Axes in, Axes out."""

from .conditions import plot_context as plot_context
from .figures import new_figure as new_figure
from .scores import plot_class_reliability as plot_class_reliability, plot_reliability as plot_reliability
from .sites import COLOURS as COLOURS, PERFECT as PERFECT, plot_defects as plot_defects
