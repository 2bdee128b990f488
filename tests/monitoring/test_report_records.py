"""Report sections about records."""

from __future__ import annotations

from finetune.monitoring.report import page
from tests.support.reports import HOSTILE, example


def test_files_that_were_left_out_are_a_section_with_counts_by_class_and_ending() -> None:
    files = {"train": {"": {".txt": 1}, HOSTILE: {".heic": 1200, "symbolic link": 3}}}
    text = page(example() | {"left_out_files": files})
    assert 'id="left-out"' in text
    assert "1,204 files were left out" in text
    assert "1,200 .heic, 3 symbolic link" in text
    assert "(no class folder)" in text
    assert HOSTILE not in text


def test_without_left_out_files_there_is_no_section() -> None:
    assert 'id="left-out"' not in page(example() | {"left_out_files": {}})
