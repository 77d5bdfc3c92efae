"""Sphinx builds the site of documents by this; ``make docs`` also fails for any warning."""

import os
import re
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

project = "bayesctx"
author = "The bayesctx developers"
project_copyright = f"2026, {author}"
release = metadata.version("bayesctx")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# pages: anchors of headings as code hosts make them, so that links hold in both places
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

# notebooks: run at every build, since their results depend on the package and not only on
# themselves; what a page does not expect, as an exception or a warning, fails the build
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds for a cell, on a busy machine
nb_execution_in_temp = True  # pages write files
nb_output_stderr = "warn"
# of the kernels: what pages draw with, and no word of tqdm on a widget that no page needs
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent / "guide"), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

# reference: docstrings of the public names, types from them and not from annotations
autosummary_generate = True
autodoc_typehints = "none"
napoleon_google_docstring = False
autodoc_member_order = "bysource"
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bayesctx {release}"
html_sourcelink_suffix = ""  # so that the source of the tutorial is a notebook
html_static_path = ["_static"]
html_css_files = ["site.css"]


def _escape_docstring(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Escape stars of shapes and bars of magnitudes, which reStructuredText takes for markup."""
    lines[:] = [re.sub(r"\(\*(?=\w)|(?<!\w)\|(?=\w)|(?<=\w)\|(?!\w)", _escaped, x) for x in lines]


def _escaped(found: re.Match) -> str:
    """What was found, with a backslash before its last character."""
    return found[0][:-1] + "\\" + found[0][-1]


def setup(app: Sphinx) -> None:
    """Register what is done to docstrings, before napoleon reads their sections.

    Parameters
    ----------
    app : Sphinx
        Calls this by its name.
    """
    app.connect("autodoc-process-docstring", _escape_docstring, priority=400)
