"""One self-contained HTML page a run: what was kept, what was not and why, with pictures."""

from pipelines.report.data import ReportConfig, Timing
from pipelines.report.step import ReportStep
from pipelines.report.write import report_path, report_summary_markdown, why_report, write_report

__all__ = [
    "ReportConfig",
    "ReportStep",
    "Timing",
    "report_path",
    "report_summary_markdown",
    "why_report",
    "write_report",
]
