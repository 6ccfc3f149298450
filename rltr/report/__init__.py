"""Report of an evaluation: figures, tables and one HTML page."""

from rltr.report.gallery import Patches
from rltr.report.html import write_report

__all__ = ["Patches", "write_report"]
