"""Environment variables that select the network for the processes of a job: NCCL, gloo and libfabric.

Sources: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html,
https://ofiwg.github.io/libfabric/main/man/fi_efa.7.html
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from finetune.sagemaker.config_files import Resources

logger = logging.getLogger(__name__)

INTERFACES = Path("/sys/class/net")
RDMA_DEVICES = Path("/sys/class/infiniband")
EFA_PREFIX = Path("/opt/amazon")
"""Folder of the EFA installer, which the image contains if it was built with one."""
_INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
_LOOPBACK = "lo"
# Set without an EFA device, FI_PROVIDER makes jobs hang. FI_EFA_FORK_SAFE protects registered memory in processes that
# start others. FI_EFA_USE_DEVICE_RDMA is not set: libfabric decides by the device, and refuses 1 where it has no RDMA.
_EFA_VARIABLES = {"FI_PROVIDER": "efa", "FI_EFA_FORK_SAFE": "1"}


def network_environment(
    resources: Resources,
    environ: Mapping[str, str],
    interfaces: Path = INTERFACES,
    rdma_devices: Path = RDMA_DEVICES,
    efa_prefix: Path = EFA_PREFIX,
) -> dict[str, str]:
    """Environment variables to add for the processes of this host; those that the user has set are left out.

    Processes of a single host communicate over the loopback interface, which also exists in a container without
    network, where the name of the host cannot be resolved.

    Args:
        resources: hosts of the job, and the network interface that the platform names.
        environ: variables that are set already.
        interfaces: folder with an entry per network interface.
        rdma_devices: folder with an entry per RDMA device.
        efa_prefix: folder of the EFA installer.
    """
    single = len(resources.hosts) == 1
    interface = _LOOPBACK if single else resources.network_interface
    variables: dict[str, str] = {}
    if interface is not None and (interfaces / interface).exists():
        variables |= dict.fromkeys(_INTERFACE_VARIABLES, interface)
    elif interface is not None and not all(name in environ for name in _INTERFACE_VARIABLES):
        existing = ", ".join(sorted(path.name for path in interfaces.glob("*"))) or "none"
        logger.warning(
            "Network interface %s of resourceconfig.json does not exist (there are: %s): NCCL and gloo select one.",
            interface,
            existing,
        )
    if not single and has_efa(rdma_devices):
        variables |= _EFA_VARIABLES
        if next(efa_prefix.glob("**/libnccl-net*.so"), None) is None:
            logger.warning(
                "This host has an Elastic Fabric Adapter, but the image has no NCCL plugin for it: GPUs of different"
                " hosts communicate over TCP. Build the image with --build-arg EFA_INSTALLER=URL."
            )
    return {name: value for name, value in variables.items() if name not in environ}


def has_efa(rdma_devices: Path = RDMA_DEVICES) -> bool:
    """Whether this host has an Elastic Fabric Adapter: an RDMA device whose driver is `efa`."""
    return any((device / "device" / "driver").resolve().name == "efa" for device in rdma_devices.glob("*"))
