"""Report sections about records."""

from __future__ import annotations

from finetune.monitoring.report import page
from tests.support.reports import HOSTILE, example


def test_ignored_files_are_counted_by_class_and_extension() -> None:
    files = {"train": {"": {".txt": 1}, HOSTILE: {".heic": 1200, "symbolic link": 3}}}
    text = page(example() | {"left_out_files": files})
    assert 'id="left-out"' in text
    assert "1,204 files were ignored" in text
    assert "1,200 .heic, 3 symbolic link" in text
    assert "(no class folder)" in text
    assert HOSTILE not in text


def test_no_section_without_ignored_files() -> None:
    assert 'id="left-out"' not in page(example() | {"left_out_files": {}})
