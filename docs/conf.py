"""Sphinx settings. The build is offline: no links into other projects' inventories.

sh scripts/docs
"""

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cifar10 import __version__

project = "cifar10"
author = "the cifar10 project"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_static", "_templates"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}

html_theme = "furo"
html_title = "cifar10"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False  # ours only, not those of Lightning and torch
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
default_role = "code"  # a name between single backticks, as in the docstrings
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def remove_generated_pages(_app: Any) -> None:
    """Delete the pages of the previous build, so that a module that was renamed or removed leaves none behind."""
    shutil.rmtree(Path(__file__).with_name("reference"), ignore_errors=True)


def keep_colons(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Begin the docstring of a value with an empty comment, so that Napoleon does not read "X: Y" as a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def link_files(_app: Any, _page: str, content: list[str]) -> None:
    """Turn links to files outside this folder into downloads, for which MyST needs the prefix `path:`."""
    content[0] = content[0].replace("](../", "](path:../")


def show_help_as_it_is(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show the docstring of a command, which is the help in a terminal, as plain text below its first line."""
    if what == "function" and name.startswith("cifar10.commands."):
        lines[1:] = ["", "::", "", *(f"    {line}" for line in lines[2:]), ""] if len(lines) > 2 else []


def setup(app: Any) -> None:
    """Connect the functions above; the priorities put them before autosummary's and Napoleon's, which have 500."""
    app.connect("builder-inited", remove_generated_pages, priority=400)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-process-docstring", show_help_as_it_is, priority=401)
    app.connect("source-read", link_files)
