"""Lines of BlazingText with several labels are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.tables.labelled_lines import MAX_LINES, has_several_labels


@pytest.mark.parametrize(
    ("lines", "several"),
    [
        ("__label__1 a text\n__label__2 another\n", False),
        ("__label__1 a text\n__label__2 __label__3 another\n", True),
        ("__label__1 a text __label__2\n", True),
        ("__label__1 a__label__2 text\n", False),
        ("a text without labels\n", False),
        ("__label__1 a\n" * MAX_LINES + "__label__1 __label__2 b\n", False),
        ("", False),
    ],
)
def test_several_labels_in_a_line(tmp_path: Path, lines: str, several: bool) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "train").write_text(lines, encoding="utf-8")
    assert has_several_labels(tmp_path) is several
