"""Self-contained HTML report, rendered from `report.json` alone."""

from finetune.monitoring.report.page import page
from finetune.monitoring.report.verdict import verdict

__all__ = ["page", "verdict"]
