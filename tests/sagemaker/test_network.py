"""Processes use the network interface of the platform, and EFA only where it exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.sagemaker.config_files import Resources
from finetune.sagemaker.network import has_efa, network_environment

ONE = Resources("algo-1", ("algo-1",), "eth0")
TWO = Resources("algo-1", ("algo-1", "algo-2"), "eth0")
ON_ETH0 = {"NCCL_SOCKET_IFNAME": "eth0", "GLOO_SOCKET_IFNAME": "eth0"}
ON_LOOPBACK = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
EFA = {"FI_PROVIDER": "efa", "FI_EFA_FORK_SAFE": "1"}


@pytest.fixture
def interfaces(tmp_path: Path) -> Path:
    for name in ("lo", "eth0"):
        (tmp_path / "net" / name).mkdir(parents=True)
    return tmp_path / "net"


@pytest.fixture
def no_rdma(tmp_path: Path) -> Path:
    return tmp_path / "infiniband"


def add_device(rdma_devices: Path, name: str, driver: str) -> None:
    """Add an RDMA device as sysfs shows it: links to the device and from there to its driver."""
    pci = rdma_devices.parent / "pci" / name
    drivers = rdma_devices.parent / "drivers" / driver
    for folder in (pci, drivers, rdma_devices / name):
        folder.mkdir(parents=True, exist_ok=True)
    (pci / "driver").symlink_to(drivers)
    (rdma_devices / name / "device").symlink_to(pci)


def test_several_hosts_use_the_interface_of_the_platform(interfaces: Path, no_rdma: Path) -> None:
    assert network_environment(TWO, {}, interfaces, no_rdma) == ON_ETH0


def test_one_host_uses_the_loopback_interface(interfaces: Path, no_rdma: Path) -> None:
    assert network_environment(ONE, {}, interfaces, no_rdma) == ON_LOOPBACK


def test_variables_of_the_user_are_kept(interfaces: Path, no_rdma: Path) -> None:
    add_device(no_rdma, "rdmap0s6", "efa")
    environ = {"NCCL_SOCKET_IFNAME": "^docker", "FI_PROVIDER": "tcp"}
    added = network_environment(TWO, environ, interfaces, no_rdma)
    assert added == {"GLOO_SOCKET_IFNAME": "eth0", "FI_EFA_FORK_SAFE": "1"}


def test_missing_interface_is_a_warning(interfaces: Path, no_rdma: Path, caplog: pytest.LogCaptureFixture) -> None:
    resources = Resources("algo-1", ("algo-1", "algo-2"), "ethwe")
    assert network_environment(resources, {}, interfaces, no_rdma) == {}
    assert "ethwe of resourceconfig.json does not exist (there are: eth0, lo)" in caplog.text


def test_missing_interface_is_irrelevant_if_the_user_selects_one(
    interfaces: Path, no_rdma: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resources = Resources("algo-1", ("algo-1", "algo-2"), "ethwe")
    assert network_environment(resources, ON_ETH0, interfaces, no_rdma) == {}
    assert caplog.text == ""


def test_no_named_interface(interfaces: Path, no_rdma: Path, caplog: pytest.LogCaptureFixture) -> None:
    resources = Resources("algo-1", ("algo-1", "algo-2"))
    assert network_environment(resources, {}, interfaces, no_rdma) == {}
    assert caplog.text == ""


@pytest.mark.parametrize(("resources", "variables"), [(TWO, ON_ETH0 | EFA), (ONE, ON_LOOPBACK)])
def test_efa_connects_hosts(resources: Resources, variables: dict[str, str], interfaces: Path, no_rdma: Path) -> None:
    add_device(no_rdma, "mlx5_0", "mlx5_core")
    add_device(no_rdma, "rdmap0s6", "efa")
    assert network_environment(resources, {}, interfaces, no_rdma) == variables


def test_image_without_nccl_plugin_is_a_warning(
    interfaces: Path, no_rdma: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_device(no_rdma, "rdmap0s6", "efa")
    prefix = tmp_path / "amazon"
    network_environment(TWO, {}, interfaces, no_rdma, prefix)
    assert "no NCCL plugin" in caplog.text
    caplog.clear()
    (prefix / "ofi-nccl" / "lib").mkdir(parents=True)
    (prefix / "ofi-nccl" / "lib" / "libnccl-net.so").touch()
    network_environment(TWO, {}, interfaces, no_rdma, prefix)
    assert caplog.text == ""


def test_other_rdma_devices_are_not_efa(no_rdma: Path) -> None:
    assert not has_efa(no_rdma)
    add_device(no_rdma, "mlx5_0", "mlx5_core")
    assert not has_efa(no_rdma)


def test_interfaces_of_this_machine() -> None:
    assert network_environment(ONE, {}) == ON_LOOPBACK
