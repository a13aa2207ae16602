"""Report of the maps of one subject: a single HTML file with viewer, signals, fits and tables."""

from corrsk.workflows.mapping.report._page import require_report, write_page, write_report

__all__ = ["require_report", "write_page", "write_report"]
