"""One self-contained HTML file of what ``fullgrad`` wrote: to share, and to open from disk."""

from fullgrad.report.page import Made, report
from fullgrad.report.values import ReportError

__all__ = ["Made", "ReportError", "report"]
