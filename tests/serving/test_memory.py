"""Available memory is limited by the host and by control groups of either version."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.serving.memory import available_memory, is_out_of_memory, memory_problem

GB = 10**9


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    write(tmp_path / "meminfo", f"MemTotal: 99 kB\nMemAvailable: {8 * GB // 1024} kB\n")
    return tmp_path / "meminfo"


def test_memory_of_the_host_is_available_without_a_limit(meminfo: Path, tmp_path: Path) -> None:
    assert available_memory(meminfo, tmp_path / "missing") == 8 * GB // 1024 * 1024
    write(tmp_path / "memory.max", "max\n")
    assert available_memory(meminfo, tmp_path) == 8 * GB // 1024 * 1024


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "cache"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_limits_count_without_cached_files(
    meminfo: Path, tmp_path: Path, folder: str, limit: str, usage: str, cache: str
) -> None:
    write(tmp_path / folder / limit, f"{4 * GB}\n")
    write(tmp_path / folder / usage, f"{3 * GB}\n")
    write(tmp_path / folder / "memory.stat", f"anon 5\n{cache} {2 * GB}\n")
    assert available_memory(meminfo, tmp_path) == 3 * GB


def test_model_larger_than_the_memory_is_a_problem(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 42)
    assert "loading the model takes 8796.1 GB" in memory_problem(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert memory_problem(tmp_path) == ""


def test_errors_about_memory_are_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
