"""The report of a run, or of several side by side: one HTML file that opens offline."""

from jepa_core.report.html import write_report
from jepa_core.report.side_by_side import write_side_by_side

__all__ = ["write_report", "write_side_by_side"]
