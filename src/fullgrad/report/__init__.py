"""One self-contained HTML file of what ``fullgrad`` wrote: to share, and to open from disk."""

from fullgrad.report.page import Made, report, report_of
from fullgrad.report.values import ReportError

__all__ = ["Made", "ReportError", "report", "report_of"]
