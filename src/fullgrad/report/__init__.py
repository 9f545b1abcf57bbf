"""One self-contained HTML file of what ``fullgrad`` wrote: to share, and to open from disk."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.report.page import Made, report, report_of
from fullgrad.report.values import ReportError

__all__ = ["Made", "ReportError", "report", "report_of"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
