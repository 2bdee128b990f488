"""Instance groups of a job: `instance_groups` of `resourceconfig.json`.

Every job has at least one, except in local mode: with `InstanceType` and `InstanceCount` it is `homogeneousCluster`.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/train-heterogeneous-cluster.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finetune.errors import PlatformError, UserError


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """A group of hosts with the same instance type."""

    name: str
    instance_type: str
    hosts: tuple[str, ...]


def parse_instance_groups(value: object) -> tuple[InstanceGroup, ...]:
    """Read the value of `instance_groups`; `None` is no group.

    Raises:
        PlatformError: it has another form.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise PlatformError(f"instance_groups is {value!r}, expected a list.")
    return tuple(map(_group, value))


def check_homogeneous(groups: Iterable[InstanceGroup]) -> None:
    """Check that all hosts of a job are in one group.

    Raises:
        UserError: there are several groups, or several instance types.
    """
    types = sorted({(group.name, group.instance_type) for group in groups})
    if len(types) > 1:
        shown = ", ".join(f"{name!r} ({instance_type})" for name, instance_type in types)
        raise UserError(
            f"The job has {len(types)} instance groups, {shown}, but all its hosts train together on equal shares of"
            " the data, and need the same devices and channels: use a single instance group, or instance_type and"
            " instance_count."
        )


def _group(value: object) -> InstanceGroup:
    name, instance_type, hosts = (
        (value.get(key) for key in ("instance_group_name", "instance_type", "hosts"))
        if isinstance(value, dict)
        else (None,) * 3
    )
    if (
        not isinstance(name, str)
        or not isinstance(instance_type, str)
        or not isinstance(hosts, list)
        or not all(isinstance(host, str) for host in hosts)
    ):
        raise PlatformError(
            f"instance_groups contains {value!r}, expected instance_group_name, instance_type and hosts."
        )
    return InstanceGroup(name, instance_type, tuple(hosts))
