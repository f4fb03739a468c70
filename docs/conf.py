"""How the documentation is built: `make docs`. Pages under api/, bounds/ and gallery/ are generated and not kept."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
GALLERY = HERE.parent / "gallery"
sys.path.insert(0, str(HERE))

import bound_pages  # noqa: E402

from nonvacuous._version import __version__  # noqa: E402

project = "nonvacuous"
author = "the nonvacuous authors"
project_copyright = author
release = version = __version__
html_theme = "furo"
exclude_patterns = ["_build"]
extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]

# One page a module, made anew in every build.
apidoc_modules = [{"path": "../src/nonvacuous", "destination": "api", "separate_modules": True, "module_first": True}]
suppress_warnings = ["ref.python"]  # an annotation's short name may mean a class of two rooms (Sample): either link will do
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # an attribute that its class documents is not described twice

# Pages are run, except those that say `# slow` in their first lines. `make docs SPHINXOPTS='-D plot_gallery=0'` runs none.
quick = [page.name for page in GALLERY.glob("plot_*.py") if "# slow" not in page.read_text(encoding="utf-8").splitlines()[:5]]
sphinx_gallery_conf = {
    "examples_dirs": str(GALLERY),
    "gallery_dirs": "gallery",
    "filename_pattern": f"/({'|'.join(map(re.escape, quick))})$" if quick else "(?!)",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "parallel": 2,
}


def skip_what_others_wrote(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a library attached to one of our classes; None leaves the choice to others."""
    theirs = inspect.isroutine(obj) and not (getattr(obj, "__module__", None) or "nonvacuous").startswith("nonvacuous")
    return True if theirs else None


def take_prose_as_written(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = bound_pages.as_written(lines)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_what_others_wrote)
    app.connect("autodoc-process-docstring", take_prose_as_written)
    app.connect("builder-inited", lambda app: bound_pages.write(HERE / "bounds"))
