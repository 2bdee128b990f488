"""The report: a page that is drawn from `report.json` alone, complete in one file."""

from finetune.observe.report.page import page

__all__ = ["page"]
