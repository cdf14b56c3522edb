# ruff: noqa: INP001 - Sphinx reads this file, nothing imports it
"""Sphinx: Markdown pages with MyST, in the furo theme. Build them with `make docs`."""

project = "bullpy"
author = "bullpy contributors"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
# Links such as reference.md#worker-events point at headings down to this level.
myst_heading_anchors = 3

html_theme = "furo"
html_title = "bullpy"
# Nothing is loaded from other hosts, and the sources lie in the repository anyway.
html_copy_source = False
html_show_sourcelink = False
