"""How Sphinx builds these pages: `make docs`, without network."""

import sys
from importlib.metadata import files
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

import manyhot

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "directives"))

project = "manyhot"
version = release = manyhot.__version__
html_title = f"manyhot {release}"
exclude_patterns = ["_generated"]

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"),
    *("loss_plot", "drawing", "conformance_table"),
]

# --- pages ------------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 4
# Frameworks whose leaves are documented, and which these pages are built without.
autodoc_mock_imports = ["jax", "keras", "lightning", "onnx", "onnxscript", "skorch", "transformers"]
default_role = "literal"  # what docstrings put in single backticks is code

# --- the Python API ---------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
# Sections of our docstrings that Google's style does not have, and one that it would read as "type: description".
napoleon_custom_sections = [(name, "rubric") for name in ("Returns", "Reduces to", "Numerics")]
nitpicky = True
# Annotations of other libraries, whose inventories would have to be fetched, and private aliases of ours.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|nn|np|numpy|pl|sp|constraints|Distribution|jax|keras|transformers|lightning|skorch)(\..*)?"),
    ("py:.*", r"(typing\.|pathlib\.)?(Path|Any|Literal|Sequence|Array|TypeVar)"),
    ("py:.*", r"(manyhot\..*\.)?(Tensor|Size|Impl|Update|Reduction|Smoothing|Average|Form|Noise|Auto)"),
    ("py:.*", r"manyhot\.toolkit\..*|manyhot\.(decisions|calibration)\.Array"),
    ("py:.*", r"optional|Features|Linear|Columns|Examples|collections\.abc\..*"),
]

# --- HTML: everything a page needs comes with it ----------------------------------------------------------------------

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["manyhot.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#a04300", "color-brand-content": "#a04300"},
    "dark_css_variables": {"color-brand-primary": "#ff9d5c", "color-brand-content": "#ff9d5c"},
}
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}


def copy_mathjax(app: Sphinx, failed: Exception | None) -> None:
    """Copy what a page of formulas loads; the package holds ten times as much."""
    if failed is not None or app.builder.format != "html":
        return
    needed = ("static/mathjax/tex-chtml.js", "static/mathjax/output/chtml/fonts/woff-v2/")
    for file in files("sphinx-mathjax-offline") or []:
        _, _, name = str(file).partition("/")
        if name.startswith(needed):
            copy_asset(str(file.locate()), str(app.outdir / "_static" / Path(name).relative_to("static").parent))


def setup(app: Sphinx) -> None:
    """Connect what this file adds to a build."""
    app.connect("build-finished", copy_mathjax)
