"""Sphinx builds the site of documents by this; ``make docs`` also fails for any warning."""

import os
from importlib import metadata
from pathlib import Path

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
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bayesctx {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
