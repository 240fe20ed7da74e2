"""Configuration of Sphinx. The source folder is the repository: the READMEs of its folders are pages as well."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "synthsr-cohort"
author = "The synthsr-cohort developers"
version = release = metadata.version("synthsr-cohort")
extensions = ["myst_parser", "generate_reference"]

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "analysis/simulate/data/README.md",
    "benchmarks/README.md",
    "config/**.md",
    "synthsr/weights/*.md",
    "workflow/ARCHITECTURE.md",
]
exclude_patterns = [".*", "docs/_build", "demo", "runs", "*.egg-info"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
highlight_language = "none"
smartquotes = False
# synthsr/weights/evaluation.md is written by a benchmark.
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = project
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
# The start page lies in docs/, as in the repository.
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
