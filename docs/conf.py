"""How the documentation is built: `make docs`, or `python -m sphinx -W --keep-going docs docs/_build/html`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from rltr.version import __version__

project = "rltr"
author = "the authors of rltr"
copyright = "the authors of rltr, Apache-2.0"  # noqa: A001 - Sphinx's name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "api", "names", "settings"]
exclude_patterns = ["_build"]
nitpicky = True  # every name that a docstring links must have a page

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 140
python_use_unqualified_type_names = True
default_role = "code"  # `x` in a docstring

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"rltr {release}"
