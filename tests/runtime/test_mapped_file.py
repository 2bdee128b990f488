"""Tensors in temporary files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.runtime.mapped_file import map_temporary_file


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_file_has_no_name_and_its_space_is_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_fallocate: bool
) -> None:
    if not has_fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    elements = (3 << 20) // 4 + 5
    reserved: list[int] = []
    from_file = torch.from_file

    def recorded(name: str, **options: Any) -> torch.Tensor:  # noqa: ANN401  # those of torch
        reserved.append(512 * Path(name).stat().st_blocks)
        return from_file(name, **options)

    monkeypatch.setattr(torch, "from_file", recorded)
    tensor = map_temporary_file(tmp_path, elements, torch.float32)
    assert reserved[0] >= 4 * elements
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(tensor, torch.zeros(elements))
    tensor[-1] = 7
    assert tensor[-1] == 7


def test_missing_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_temporary_file(tmp_path / "missing", 1, torch.uint8)
