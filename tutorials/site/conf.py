"""How Sphinx makes the site; `make site` builds it into build/site. It opens from disk, without a network."""

import importlib.metadata
import os
import sys
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # docstrings, equations, explorer_pages, notebooks
os.environ["JUPYTER_PATH"] = str(HERE)  # kernels/

project = "linreg and dmbp"
author = "The linreg and dmbp authors"
project_copyright = author
release = importlib.metadata.version("linreg-dmbp")
html_title = f"{project} {release}"
smartquotes = False  # most of what is quoted here is code

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "myst_nb"]
extensions += ["docstrings", "equations", "explorer_pages", "notebooks"]
root_doc = "site/index"
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".py": "myst-nb"}
exclude_patterns = ["site/*.py", "site/root", "**/__pycache__"]

# Markdown and notebooks
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
nb_custom_formats = {".py": "notebooks.read"}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_output_stderr = "warn"
nb_code_prompt_show = "Show answers"  # of cells tagged hide-cell
nb_code_prompt_hide = "Hide answers"
nb_merge_streams = True

# Docstrings
autodoc_default_options = {"members": True, "member-order": "bysource", "special-members": "__call__, __matmul__"}
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# Formulas are drawn as SVG: browsers refuse fonts that lie in another folder of the disk.
mathjax_path = "tex-svg-full.js"
mathjax3_config = {
    "options": {"enableMenu": False},
    "svg": {"fontCache": "global"},
    "tex": {"packages": {"[-]": ["noerrors", "noundefined"]}},  # a mistake is an error, which `make check-site` finds
}
MATHJAX = files("sphinx-mathjax-offline").joinpath("static", "mathjax", mathjax_path)

# Pages
html_theme = "furo"
html_static_path = ["static", str(MATHJAX)]
html_css_files = ["site.css"]
html_extra_path = ["root"]  # index.html, which leads to the front page
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which browsers refuse on a disk
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}
