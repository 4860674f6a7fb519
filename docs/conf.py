"""Sphinx settings. Method pages are written from the catalogue before each build, so they can't drift from it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages  # isort: skip
import pellucid

project, author = "Pellucid", "The Pellucid authors"
version = release = pellucid.__version__
extensions = ["myst_parser", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "Pellucid"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]


def setup(app):
    """Write the generated pages when a build starts."""
    app.connect("builder-inited", lambda app: pages.write(Path(__file__).parent))
