"""The report: a page that is drawn from `report.json` alone, complete in one file."""

from finetune.observe.report.page import page
from finetune.observe.report.verdict import verdict

__all__ = ["page", "verdict"]
