"""The forms that a report can be asked for in, by name: plain data, because help texts need it."""

from __future__ import annotations

FORMS = {
    "text": "a table for a terminal",
    "json": "all there is, for other programs",
    "markdown": "tables for a job's summary or a comment",
    "github": "annotations of a GitHub Actions job",
    "gitlab": "issues of GitLab's Code Quality",
    "sarif": "code scanning and editors",
    "csv": "a line per layer, for a spreadsheet",
    "html": "a page to sort and filter in a browser",
}
"""What each form is for. The form NAME is the module ``pytest_dwsconv.render.forms.NAME``."""

VIEW_OPTIONS = ("dws_sort", "dws_match", "dws_depth")
"""The options that choose which convolutions text shows, and how."""

FILES_ONLY = ("html",)
"""Forms that cannot be read in a terminal."""
