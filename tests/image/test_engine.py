"""A Docker engine started for a command leaves nothing running or on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIRED_PROGRAMS = ("unshare", "dockerd", "iptables")

# In its own network and file system, so that an existing engine of the machine is not affected.
APART = """
mount -t tmpfs none /run
ip link set lo up
iptables -A INPUT -s 192.0.2.1 -j DROP
look() {
    iptables-save | grep -E '^-A|DOCKER|FORWARD DROP'
    ip -o link show | cut -d: -f2
    ls -d /run/* "$ENGINE_FOLDER" 2>&1
}
look >"$1/before"
scripts/docker/engine run sh -c 'docker network create another && exit 7'
echo "exit code $?"
look >"$1/after"
diff "$1/before" "$1/after" && echo same
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start an engine")
def test_engine_cleans_up(image: str, tmp_path: Path) -> None:
    missing = [name for name in REQUIRED_PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"the engine is not of this machine's packages: {', '.join(missing)} missing")
    environment = {**os.environ, "ENGINE_FOLDER": f"/var/tmp/engine-test-{os.getpid()}"}
    environment.pop("DOCKER_HOST", None)
    command = ["unshare", "--mount", "--net", "bash", "-c", APART, "apart", str(tmp_path)]
    completed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "exit code 7" in completed.stdout, completed.stderr
    assert completed.stdout.endswith("same\n"), completed.stdout
