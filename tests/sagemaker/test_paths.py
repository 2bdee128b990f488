"""The paths below any root."""

from __future__ import annotations

from pathlib import Path

from finetune.sagemaker.paths import Paths


def test_default_paths() -> None:
    paths = Paths.from_environment({})
    assert paths.channel("train") == Path("/opt/ml/input/data/train")
    assert paths.failure == Path("/opt/ml/output/failure")
    assert paths.output_data == Path("/opt/ml/output/data")
    assert paths.checkpoints == Path("/opt/ml/checkpoints")


def test_root_is_configurable(tmp_path: Path) -> None:
    paths = Paths.from_environment({"SAGEMAKER_BASE_DIR": str(tmp_path), "FINETUNE_PRETRAINED": str(tmp_path / "w")})
    assert {p.is_relative_to(tmp_path) for p in (paths.config, paths.data, paths.model, paths.output)} == {True}
    assert paths.baked_weights == tmp_path / "w"
    assert list(tmp_path.iterdir()) == []
