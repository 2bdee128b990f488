"""The label map determines the task."""

from __future__ import annotations

from finetune.data.labels import LabelMap
from finetune.tasks.create import create_task
from finetune.tasks.multi_label import MultiLabelClassification
from finetune.tasks.single_label import SingleLabelClassification


def test_label_map_determines_the_task() -> None:
    names = ("a", "b")
    assert create_task(LabelMap(names, multi_label=False)) == SingleLabelClassification(names)
    assert create_task(LabelMap(names, multi_label=True)) == MultiLabelClassification(names)
