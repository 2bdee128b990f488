"""Jobs on several hosts: their environment, data, checkpoints, artifacts, ends and interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Channel,
    Hosts,
    Interruption,
    Moment,
    PipeSource,
    RequestError,
    Storage,
    TrainingRequest,
    network,
    run_job,
)
from tests.support.simulated_hosts import (
    CONNECTED,
    ECHO,
    exit_codes,
    hosts_job,
    logs,
    needs_hosts,
)
from tests.support.simulated_jobs import PREAMBLE, eventually, python_job

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, needs_hosts]


def test_every_host_has_its_own_name_folder_and_address(tmp_path: Path) -> None:
    code = """
addresses = {name: socket.gethostbyname(name) for name in hosts}
interfaces = [name for _, name in socket.if_nameindex()]
(pathlib.Path('/dev/shm')/'lock').touch(exist_ok=False)
print(json.dumps([me, socket.gethostname(), addresses[me], len(set(addresses.values())), interfaces, str(base)]))
"""
    result = run_job(hosts_job(code, tmp_path, 3), tmp_path / "ml")
    assert (result.status, exit_codes(result)) == ("Completed", [0, 0, 0]), logs(result)
    assert [json.loads(log) for log in logs(result)] == [
        [f"algo-{n}", f"algo-{n}", f"10.0.0.{n}", 3, ["lo", "eth0"], str(tmp_path / "ml" / f"algo-{n}")]
        for n in (1, 2, 3)
    ]
    assert [host.log.name for host in result.hosts] == [f"000-algo-{n}.log" for n in (1, 2, 3)]


def test_hosts_connect_over_their_interface(tmp_path: Path) -> None:
    code = CONNECTED + ECHO + "exchange()\nprint(connections[0].getsockname()[0])"
    result = run_job(hosts_job(code, tmp_path), tmp_path / "ml")
    assert [log.splitlines()[-1] for log in logs(result)] == ["10.0.0.1", "10.0.0.2"]


def test_jobs_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    """Another job listens on the same address and port."""
    with network.HostNetwork(("algo-1", "algo-2")) as other:
        code = "import socket, time; server = socket.create_server(('', 7777)); print('up', flush=True); time.sleep(60)"
        command = (*other.enter("algo-1"), sys.executable, "-c", code)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "up\n"
            code = "s = socket.socket(); s.settimeout(5); print(s.connect_ex((first, port)) != 0)"
            result = run_job(hosts_job(code, tmp_path), tmp_path / "ml")
            listener.kill()
    assert logs(result) == ["True\n", "True\n"]


def test_names_resolve_late(tmp_path: Path) -> None:
    code = """
def resolves(name):
    try: return bool(socket.gethostbyname(name))
    except OSError: return False
other = next(name for name in hosts if name != me)
print(resolves(me), resolves(other))
while not resolves(other): time.sleep(0.05)
"""
    result = run_job(hosts_job(code, tmp_path, names_delay_seconds=3.0), tmp_path / "ml")
    assert (result.status, logs(result)) == ("Completed", ["True False\n"] * 2)


def test_host_starts_late(tmp_path: Path) -> None:
    job = hosts_job("print(time.monotonic())", tmp_path, late={"algo-2": 1.5})
    first, second = (float(log) for log in logs(run_job(job, tmp_path / "ml")))
    assert second - first > 1.0


def test_objects_are_dealt_to_hosts(tmp_path: Path) -> None:
    for key in ("a/1", "a/2", "b/1", "c"):
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / key).write_text(key)
    channels = (
        Channel("sharded", tmp_path / "data", distribution="ShardedByS3Key"),
        Channel("single", tmp_path / "data" / "c", distribution="ShardedByS3Key"),
        Channel("whole", tmp_path / "data"),
        Channel("piped", tmp_path / "data", distribution="ShardedByS3Key", pipe=PipeSource()),
    )
    code = """
for name in ('sharded', 'single', 'whole'):
    folder = base/'input'/'data'/name
    print(name, *sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()))
pipe = base/'input'/'data'/'piped_0'
while not pipe.exists(): time.sleep(0.01)
print(pipe.read_text())
"""
    job = hosts_job(code, tmp_path, 3)
    result = run_job(replace(job, request=TrainingRequest(channels=channels)), tmp_path / "ml")
    assert [log.splitlines() for log in logs(result)] == [
        ["sharded a/1 c", "single c", "whole a/1 a/2 b/1 c", "a/1c"],
        ["sharded a/2", "single", "whole a/1 a/2 b/1 c", "a/2"],
        ["sharded b/1", "single", "whole a/1 a/2 b/1 c", "b/1"],
    ]


def test_artifacts_of_hosts_are_merged_and_clashes_are_named(tmp_path: Path) -> None:
    code = """
(base/'model'/'parts').mkdir()
(base/'model'/'parts'/me).touch(); (base/'model'/'same').write_text(me); (base/'output'/'data'/me).touch()
"""
    result = run_job(hosts_job(code, tmp_path), tmp_path / "ml")
    assert (result.model, result.output) != (None, None)
    with tarfile.open(result.model or "") as model, tarfile.open(result.output or "") as output:
        assert model.getnames() == ["parts", "parts/algo-1", "same", "parts/algo-2"]
        same = model.extractfile("same")
        assert same is not None
        assert same.read() == b"algo-1"
        assert output.getnames() == ["algo-1", "algo-2"]
    assert result.clashes == ("model/same",)


@pytest.mark.parametrize("mirror", [False, True])
def test_hosts_share_one_checkpoint_prefix(mirror: bool, tmp_path: Path) -> None:
    """A restored file that another host deletes disappears from S3, if deletions are mirrored."""
    code = """
print(me, sorted(path.name for path in (base/'checkpoints').iterdir()))
(base/'checkpoints'/me).touch()
if me == hosts[1]: (base/'checkpoints'/'old').unlink()
"""
    job = hosts_job(code, tmp_path)
    job = replace(job, sync=replace(job.sync, mirror_deletions=mirror))
    job.storage.checkpoints.mkdir(parents=True)
    (job.storage.checkpoints / "old").touch()
    result = run_job(job, tmp_path / "ml")
    assert logs(result) == ["algo-1 ['old']\n", "algo-2 ['old']\n"]
    expected = {"algo-1", "algo-2"} if mirror else {"algo-1", "algo-2", "old"}
    assert {path.name for path in job.storage.checkpoints.iterdir()} == expected


def test_failure_is_that_of_the_first_host_that_fails(tmp_path: Path) -> None:
    code = """
(base/'output'/'failure').write_text(f'cause on {me}')
if me == first: time.sleep(0.5)
sys.exit(1 if me == first else 2)
"""
    result = run_job(hosts_job(code, tmp_path), tmp_path / "ml")
    assert (result.status, result.exit_code, result.failure_reason) == ("Failed", 2, "cause on algo-2")
    assert [(host.exit_code, host.failure) for host in result.hosts] == [(1, "cause on algo-1"), (2, "cause on algo-2")]


def test_host_that_continues_after_a_failure_is_killed(tmp_path: Path) -> None:
    code = "sys.exit(1) if me == first else time.sleep(60)"
    result = run_job(hosts_job(code, tmp_path, failure_seconds=0.5), tmp_path / "ml")
    assert (result.status, result.exit_code, exit_codes(result)) == ("Failed", 1, [1, 137])
    assert [host.was_killed for host in result.hosts] == [False, True]


def test_processes_of_a_host_end_with_its_first_one(tmp_path: Path) -> None:
    code = CONNECTED + ECHO + "import subprocess\nif me == first: exchange(); subprocess.Popen(['sleep', '60'])\n"
    code += "else: exchange(); connections[0].settimeout(60); assert connections[0].recv(1) == b''"
    result = run_job(hosts_job(code, tmp_path), tmp_path / "ml")
    assert (result.status, exit_codes(result)) == ("Completed", [0, 0]), logs(result)


SIMULATOR = """
import sys
from pathlib import Path
from sagemaker_simulator import Hosts, Storage, TrainingJob, TrainingRequest, run_job
folder = Path(sys.argv[1])
run_job(TrainingJob(TrainingRequest(), tuple(sys.argv[2:]), Storage(folder / "s3"), hosts=Hosts(2)), folder / "ml")
"""


def test_killed_simulator_leaves_no_process(tmp_path: Path) -> None:
    code = PREAMBLE + "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    command = [sys.executable, "-c", SIMULATOR, str(tmp_path), sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def processes() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(tmp_path / "ml") in arguments:
                found.append(int(entry.name))
        return found

    with subprocess.Popen(command, env=environment) as simulator:
        eventually(lambda: len(processes()) >= 4)
        simulator.send_signal(signal.SIGKILL)
        simulator.wait()
    eventually(lambda: processes() == [])


def test_unsuitable_requests_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = hosts_job("", tmp_path)
    for interruption, message in (
        (Interruption(Moment(0.0), "cut", host="algo-3"), "the hosts are algo-1, algo-2"),
        (Interruption(Moment(0.0), "stop", host="algo-1"), "applies to all hosts"),
    ):
        with pytest.raises(RequestError, match=message):
            run_job(job, tmp_path / "ml", interruption)
    with pytest.raises(RequestError, match="several hosts"):
        run_job(python_job("", tmp_path), tmp_path / "ml", Interruption(Moment(0.0), "cut"))
    with pytest.raises(RequestError, match="own /dev/shm"):
        run_job(job, Path("/dev/shm/ml"))
    with pytest.raises(RequestError, match="start delay of host 'algo-3'"):
        Hosts(2, {"algo-3": 1.0})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RequestError, match=r"need root.*the user ID of this process is 1000"):
        run_job(job, tmp_path / "ml")
    assert not (tmp_path / "ml").exists()


def test_hosts_without_permission_are_reported(tmp_path: Path) -> None:
    """Root without the capability, as in a container without --privileged."""
    code = SIMULATOR.replace("\nrun_job", "\nfrom sagemaker_simulator import RequestError\ntry:\n run_job")
    code += "except RequestError as error: print(error)"
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run([*command, str(tmp_path), "true"], capture_output=True, text=True, env=environment, check=True)
    assert "cannot be created" in run.stdout
    assert "unshare failed" in run.stdout


def test_unused_storage_is_not_shared(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert [path.name for path in storage.next_logs(("algo-1", "algo-2"))] == ["000-algo-1.log", "000-algo-2.log"]
    (tmp_path / "logs" / "000-algo-2.log").touch()
    assert storage.next_log().name == "001.log"
