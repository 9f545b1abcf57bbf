"""Sphinx's settings for the site: ``make docs``. docs/design/site.md says why they are so."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "website"))

import fullgrad  # noqa: E402
import reference  # noqa: E402

project, author = "fullgrad", "the fullgrad contributors"
project_copyright = "the fullgrad contributors, Apache-2.0"
version = release = fullgrad.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["data"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

html_theme = "furo"
html_title = "fullgrad"
html_static_path = ["static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source = html_show_sourcelink = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the stored outputs; `make notebooks` runs the cells and compares
nb_merge_streams = True

autosummary_generate = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
toc_object_entries = False  # each page would carry a thousand entries of navigation
napoleon_google_docstring, napoleon_numpy_docstring = True, False
copybutton_exclude = ".linenos, .gp, .go"


suppress_warnings = [
    "ref.python",  # two packages have a class of one name; the text shows it without a link
]


def _plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Write shapes for reStructuredText; a constant does not have its type's docstring."""
    if what == "data" and type(thing).__doc__ and lines and lines[0] in type(thing).__doc__:
        lines.clear()
    lines[:] = [reference.escaped(line) for line in lines]


def setup(app: Any) -> None:
    """Write the reference's pages before Sphinx looks for sources."""
    app.connect("autodoc-process-docstring", _plain, priority=900)  # behind napoleon
    app.connect("config-inited", lambda *_: reference.write(Path(app.srcdir) / "reference"))
