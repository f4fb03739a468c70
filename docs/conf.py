"""How the documentation is built: `make docs`. Pages under api/, bounds/ and gallery/ are generated and not kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx_gallery.sorting import FileNameSortKey

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
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # an attribute that its class documents is not described twice

# Pages are run, except those that say `# slow` in their first lines. `make docs SPHINXOPTS='-D plot_gallery=0'` runs none.
quick = [page.name for page in GALLERY.glob("plot_*.py") if "# slow" not in page.read_text(encoding="utf-8").splitlines()[:5]]
sphinx_gallery_conf = {
    "examples_dirs": str(GALLERY),
    "gallery_dirs": "gallery",
    "filename_pattern": f"/({'|'.join(map(re.escape, quick))})$" if quick else "(?!)",
    "within_subsection_order": FileNameSortKey,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
    "show_signature": False,
    "parallel": 2,
}


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: bound_pages.write(HERE / "bounds"))
