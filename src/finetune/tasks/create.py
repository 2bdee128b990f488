"""Creates the task of a label map."""

from __future__ import annotations

from finetune.data.labels import LabelMap
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification
from finetune.tasks.task import Task


def create_task(labels: LabelMap) -> Task:
    """Create the task of records with these labels."""
    return MultiLabelClassification(labels.names) if labels.multi_label else SingleLabelClassification(labels.names)
