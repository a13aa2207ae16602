"""Configuration of the Sphinx build (`make docs`)."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

# The arrays of the gallery are small; on a busy machine several threads would wait for each other.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TQDM_DISABLE", "1")  # no progress bars in the gallery

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_ext"))

import corrsk  # noqa: E402

project = "corrsk"
author = "The corrsk developers"
copyright = "2026, The corrsk developers"
version = release = corrsk.__version__

extensions = [
    "myst_parser",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "reference_pages",  # _ext: API pages from `__all__`, command line from the application
    "records",  # _ext: figures and tables from benchmarks/results
]
exclude_patterns = ["_build", "_ext", "_templates", "gallery/**/*.ipynb", "sg_execution_times.rst"]
templates_path = ["_templates"]
root_doc = "index"
smartquotes = False  # options of commands begin with two hyphens

# -- Markdown ------------------------------------------------------------------
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

# -- Docstrings ----------------------------------------------------------------
autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc has the types, with shapes
autodoc_default_options = {
    "members": True,
    # methods of corrsk's own base classes, without those of scikit-learn and Python
    "inherited-members": (
        "ClassifierMixin,TransformerMixin,OneToOneFeatureMixin,OutlierMixin,MetaEstimatorMixin,"
        "BaseEstimator,Pipeline,CallbackSupportMixin,_MetadataRequester,_SetOutputMixin,"
        "BaseSearchCV,GridSearchCV,_BaseScorer,Module,Optimizer,Warning,Exception,StrEnum,ReprEnum,Enum,str,object"
    ),
    # made by scikit-learn, with references to its own documents
    "exclude-members": (
        "get_metadata_routing,get_params,n_features_in_,set_output,set_fit_request,"
        "set_partial_fit_request,set_predict_request,set_predict_proba_request,"
        "set_predict_log_proba_request,set_score_request,set_transform_request,"
        "set_inverse_transform_request"
    ),
}
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_xref_param_type = False

# -- Cross references (nitpicky: -n) ---------------------------------------------
# The build fetches no inventories, so names of other packages are not links.
nitpick_ignore_regex = [
    # properties of scikit-learn's Pipeline
    (r"py:obj", r"n_features_in_|feature_names_in_|classes_"),
    (
        r"py:.*",
        r"(sklearn|numpy|np|pandas|pd|torch|skorch|dask|distributed|joblib|matplotlib|scipy|rich|"
        r"warnings)(\..*)?",
    ),
]

# -- Gallery -------------------------------------------------------------------
sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"\.py$",  # every script is executed
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "gallery_pages.place",
    "image_scrapers": ("gallery_pages.save_figures", "matplotlib"),
    "ignore_repr_types": r"matplotlib\.figure\.Figure",  # the figure itself is shown
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "plot_gallery": "True",
    "abort_on_example_error": True,
    "matplotlib_animations": False,
    "min_reported_time": 5,
    "doc_module": ("corrsk",),
    "write_computation_times": False,
    "default_thumb_file": str(DOCS / "_static" / "thumbnail.png"),
    "backreferences_dir": "gallery/backreferences",
    "inspect_global_variables": False,
    "nested_sections": False,
}
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")

# -- HTML ----------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "corrsk"
html_static_path = ["_static"]
html_css_files = ["corrsk.css"]
html_js_files = ["figures.js"]
html_favicon = "_static/thumbnail.png"
html_show_sourcelink = False
html_theme_options = {
    "navigation_depth": 2,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
}
# pages without subordinate ones; the code of the gallery needs the whole width
html_sidebars = {
    page: []
    for page in (
        "index",
        "getting_started",
        "reproduction",
        "architecture",
        "glossary",
        "gallery/*",
    )
}

# numpydoc refers to an attribute that is a property, such as classes_ of a Pipeline, by its bare
# name, which several classes have
suppress_warnings = ["ref.python"]
