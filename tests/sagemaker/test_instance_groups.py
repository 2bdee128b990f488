"""One homogeneous instance group trains; several are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.errors import PlatformError, UserError
from finetune.sagemaker.config_files import read_job_files
from finetune.sagemaker.instance_groups import InstanceGroup, check_homogeneous
from finetune.sagemaker.paths import Paths


def group(name: str, instance_type: str, *hosts: str) -> dict[str, object]:
    return {"instance_group_name": name, "instance_type": instance_type, "hosts": list(hosts)}


def read_groups(folder: Path, groups: object) -> tuple[InstanceGroup, ...]:
    paths = Paths(folder)
    paths.config.mkdir(parents=True)
    resources = {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"], "instance_groups": groups}
    (paths.config / "resourceconfig.json").write_text(json.dumps(resources), encoding="utf-8")
    return read_job_files(paths).resources.instance_groups


@pytest.mark.parametrize(
    "groups",
    [
        None,
        [],
        [group("homogeneousCluster", "ml.g5.xlarge", "algo-2", "algo-1")],
        [group("homogeneousCluster", "ml.g5.xlarge", host) for host in ("algo-1", "algo-2")],
    ],
)
def test_one_group_is_accepted(tmp_path: Path, groups: list[object] | None) -> None:
    check_homogeneous(read_groups(tmp_path, groups))


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ([group("gpu", "ml.g5.xlarge", "algo-1"), group("cpu", "ml.m5.xlarge", "algo-2")], "'cpu' (ml.m5.xlarge)"),
        ([group("a", "ml.g5.xlarge", "algo-1"), group("b", "ml.g5.xlarge", "algo-2")], "'a' (ml.g5.xlarge), 'b'"),
    ],
)
def test_several_groups_are_refused(tmp_path: Path, groups: list[object], named: str) -> None:
    with pytest.raises(UserError, match="The job has 2 instance groups") as caught:
        check_homogeneous(read_groups(tmp_path, groups))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "groups", ["gpu", {}, [3], [{"instance_group_name": "gpu"}], [group("a", "b") | {"hosts": [1]}]]
)
def test_other_forms_are_platform_errors(tmp_path: Path, groups: object) -> None:
    with pytest.raises(PlatformError, match=r"resourceconfig\.json: instance_groups"):
        read_groups(tmp_path, groups)
