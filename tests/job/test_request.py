"""The request is checked before any data is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.job.request import read_request
from finetune.sagemaker.paths import Paths


def test_several_instance_groups_are_refused(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.config.mkdir(parents=True)
    groups = [
        {"instance_group_name": name, "instance_type": f"ml.{name}.xlarge", "hosts": [host]}
        for name, host in (("g5", "algo-1"), ("m5", "algo-2"))
    ]
    resources = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "instance_groups": groups}
    (paths.config / "resourceconfig.json").write_text(json.dumps(resources), encoding="utf-8")
    with pytest.raises(UserError, match=r"2 instance groups, 'g5' \(ml\.g5\.xlarge\), 'm5' \(ml\.m5\.xlarge\)"):
        read_request(paths)
