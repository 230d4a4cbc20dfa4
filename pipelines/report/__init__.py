"""One self-contained HTML page a run: what was kept, what was not and why, with pictures."""

from maskmill.pipelines.report.data import ReportConfig, Timing
from maskmill.pipelines.report.write import report_path, report_summary_markdown, why_report, write_report

__all__ = [
    "ReportConfig",
    "Timing",
    "report_path",
    "report_summary_markdown",
    "why_report",
    "write_report",
]
