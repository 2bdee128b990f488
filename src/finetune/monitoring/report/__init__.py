"""The report: a page that is drawn from `report.json` alone, complete in one file."""

from finetune.monitoring.report.page import page
from finetune.monitoring.report.verdict import verdict

__all__ = ["page", "verdict"]
