"""Jobs on several hosts: their environment, data, checkpoints, artifacts, ends and interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Channel,
    Hosts,
    Interruption,
    JobResult,
    Moment,
    PipeSource,
    RequestError,
    StopRequest,
    Storage,
    TrainingJob,
    TrainingRequest,
    World,
    network,
    reason_unavailable,
    run_job,
    run_with_interruptions,
)
from sagemaker_simulator.interruptions import Kind
from tests.support.simulated_jobs import PREAMBLE, eventually, python_job

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_unavailable()), reason=reason_unavailable() or "hosts can be simulated"),
]

RESOURCES = """
import json, socket
resources = json.loads((base/'input'/'config'/'resourceconfig.json').read_text())
me, hosts = resources['current_host'], resources['hosts']
first, port = hosts[0], 7777
"""
READY = "print(me, 'is ready')\n"
# The first host accepts the others and holds the connections; the others wait for their end.
CONNECTED = """
def connect():
    if me == first:
        server = socket.create_server(('', port))
        return [server.accept()[0] for _ in hosts[1:]]
    while True:
        try:
            return [socket.create_connection((first, port))]
        except OSError:
            time.sleep(0.05)
connections = connect()
print(me, 'is connected')
"""
ECHO = """
def exchange():
    for connection in connections:
        connection.settimeout(2.0)
        connection.sendall(b'x')
        if connection.recv(1) != b'x': raise ConnectionError('closed')
"""
EXIT_3_WHEN_CLOSED = """
try:
    while True: exchange(); time.sleep(0.02)
except TimeoutError:
    (base/'output'/'failure').write_text(f'{me} hears nothing')
    sys.exit(4)
except OSError:
    (base/'output'/'failure').write_text(f'{me} lost a connection')
    sys.exit(3)
"""
EXIT_ON_SIGTERM = "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'asked to stop\\n'), os._exit(0)))\n"
ALL_CONNECTED = Moment(0.1, "is connected", 2)


def hosts_job(
    code: str,
    folder: Path,
    count: int = 2,
    late: Mapping[str, float] | None = None,
    names_delay_seconds: float = 0.0,
    failure_seconds: float = 20.0,
) -> TrainingJob:
    """A job that runs Python code on several hosts; `me`, `hosts` and `first` are names of hosts."""
    hosts = Hosts(count, late or {}, names_delay_seconds, failure_seconds)
    return replace(python_job(RESOURCES + code, folder), hosts=hosts)


def logs(result: JobResult) -> list[str]:
    return [host.log.read_text() for host in result.hosts]


def exit_codes(result: JobResult) -> list[int]:
    return [host.exit_code for host in result.hosts]


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


def test_lost_host_closes_no_connection(tmp_path: Path) -> None:
    job = hosts_job(CONNECTED + ECHO + EXIT_3_WHEN_CLOSED, tmp_path)
    result = run_job(job, tmp_path / "ml", Interruption(ALL_CONNECTED, "kill", host="algo-2"))
    assert (result.status, exit_codes(result)) == ("Interrupted", [4, 137])
    assert [host.was_killed for host in result.hosts] == [False, True]
    assert result.hosts[0].failure == "algo-1 hears nothing"
    assert (result.model, result.output) == (None, None)
    first, second = (host.seconds_after_interruption for host in result.hosts)
    assert first is not None
    assert second is not None
    assert second < 1.0 < first
    assert result.seconds_after_interruption == first


def test_killed_process_closes_its_connections(tmp_path: Path) -> None:
    job = hosts_job(CONNECTED + ECHO + EXIT_3_WHEN_CLOSED, tmp_path)
    result = run_job(job, tmp_path / "ml", Interruption(ALL_CONNECTED, "kill_rank", host="algo-2"))
    assert (result.status, exit_codes(result)) == ("Interrupted", [3, 137])
    assert [host.was_killed for host in result.hosts] == [False, False]
    assert result.hosts[0].failure == "algo-1 lost a connection"


RANKS = """
import subprocess
child = "import sys, time; memory = bytearray(64 << 20); print('rank', sys.argv[1], flush=True); time.sleep(60)"
ranks = [subprocess.Popen([sys.executable, '-c', child, str(number)]) for number in range(3)]
tracker = subprocess.Popen(['sleep', '60'])
while all(process.poll() is None for process in ranks): time.sleep(0.01)
print('ended', *[number for number, process in enumerate(ranks) if process.poll() == -9])
assert tracker.poll() is None
sys.exit(9)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_one_of_several_ranks_is_killed(count: int, tmp_path: Path) -> None:
    """The number selects a process by its ID; the host's first process and a small helper are no ranks."""
    job = hosts_job(RANKS, tmp_path, count, failure_seconds=0.5)
    interruption = Interruption(Moment(0.2, "^rank", 3 * count), "kill_rank", rank=4)
    result = run_job(job, tmp_path / "ml", interruption)
    assert (result.status, result.exit_code) == ("Interrupted", 9)
    assert logs(result)[0].splitlines()[-1] == "ended 1"


def test_sigterm_reaches_one_host(tmp_path: Path) -> None:
    listen = EXIT_ON_SIGTERM + CONNECTED + ECHO + EXIT_3_WHEN_CLOSED
    result = run_job(
        hosts_job(listen, tmp_path), tmp_path / "ml", Interruption(ALL_CONNECTED, "reclaim", host="algo-2")
    )
    assert (result.status, exit_codes(result)) == ("Interrupted", [3, 0])
    assert ["asked to stop" in log for log in logs(result)] == [False, True]


@pytest.mark.parametrize(("kind", "status"), [("reclaim", "Interrupted"), ("stop", "Stopped")])
def test_sigterm_reaches_all_hosts(kind: Kind, status: str, tmp_path: Path) -> None:
    code = EXIT_ON_SIGTERM + READY + "time.sleep(60)"
    moment = Moment(0.0, "is ready", 2)
    result = run_job(hosts_job(code, tmp_path), tmp_path / "ml", Interruption(moment, kind))
    assert (result.status, exit_codes(result)) == (status, [0, 0])
    assert ["asked to stop" in log for log in logs(result)] == [True, True]
    assert (result.model is None) == (status == "Interrupted")
    assert result.seconds_after_sigterm is not None


def test_cut_link_is_noticed_by_both_ends(tmp_path: Path) -> None:
    job = hosts_job(CONNECTED + ECHO + EXIT_3_WHEN_CLOSED, tmp_path)
    result = run_job(job, tmp_path / "ml", Interruption(ALL_CONNECTED, "cut", host="algo-2"))
    assert (result.status, exit_codes(result)) == ("Interrupted", [4, 4])
    assert [host.failure for host in result.hosts] == ["algo-1 hears nothing", "algo-2 hears nothing"]


def test_job_that_does_not_notice_a_cut_link_is_killed(tmp_path: Path) -> None:
    job = hosts_job(CONNECTED + "time.sleep(60)", tmp_path, failure_seconds=0.5)
    result = run_job(job, tmp_path / "ml", Interruption(ALL_CONNECTED, "cut"))
    assert (result.status, exit_codes(result)) == ("Interrupted", [137, 137])


TIMED_EXCHANGES = """
connections[0].settimeout(30.0)
for number in range(20):
    start = time.monotonic()
    connections[0].sendall(bytes(100_000))
    received = 0
    while received < 100_000: received += len(connections[0].recv(min(1 << 16, 100_000 - received)) or sys.exit(5))
    print('seconds', time.monotonic() - start)
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("kind", "amount", "duration"), [("cut", None, 1.0), ("slow", 4.0, None), ("loss", 20.0, 2.0)], ids=str
)
def test_disturbed_link_slows_the_job_down(
    kind: Kind, amount: float | None, duration: float | None, tmp_path: Path
) -> None:
    job = hosts_job(CONNECTED + TIMED_EXCHANGES, tmp_path)
    interruption = Interruption(Moment(0.0, "seconds", 4), kind, amount=amount, duration_seconds=duration)
    result = run_job(job, tmp_path / "ml", interruption)
    assert (result.status, exit_codes(result)) == ("Completed", [0, 0]), logs(result)
    assert result.seconds_after_interruption is not None
    seconds = [float(line.split()[1]) for line in logs(result)[0].splitlines() if line.startswith("seconds")]
    assert max(seconds) > 0.15
    assert len(seconds) == 20


def test_delay_needs_netem_or_delays(tmp_path: Path) -> None:
    job = hosts_job(CONNECTED + ECHO + "for _ in range(20): exchange(); time.sleep(0.05)", tmp_path)
    interruption = Interruption(ALL_CONNECTED, "delay", amount=200.0)
    try:
        result = run_job(job, tmp_path / "ml", interruption)
    except RequestError as error:
        assert "sch_netem" in str(error)
    else:
        assert (result.seconds_after_interruption or 0.0) > 2.0


def test_job_restarts_in_other_worlds(tmp_path: Path) -> None:
    code = """
parameters = json.loads((base/'input'/'config'/'hyperparameters.json').read_text())
print('world', len(hosts), parameters.get('processes_per_host'))
state = base/'checkpoints'/'starts'
starts = int(state.read_text()) + 1 if state.exists() else 1
if me == first:
    temporary = state.with_name('starts.sagemaker-ignore')
    temporary.write_text(str(starts))
    temporary.rename(state)
    while not state.with_name('starts.sagemaker-uploaded').exists(): time.sleep(0.005)
print(me, 'is ready')
if starts < 4: time.sleep(60)
"""
    interruptions = [
        Interruption(Moment(0.0, "algo-1 is ready"), kind, host="algo-2") for kind in ("kill", "cut", "kill")
    ]
    job = hosts_job(code, tmp_path, failure_seconds=0.2)
    worlds = (World(1, 4), World(3, 2), World(2))
    results = run_with_interruptions(job, tmp_path / "ml", interruptions, worlds=worlds)
    assert [result.status for result in results] == ["Interrupted", "Interrupted", "Interrupted", "Completed"]
    assert [len(result.hosts) for result in results] == [2, 1, 3, 2]
    assert [result.log_text().splitlines()[0] for result in results] == [
        "world 2 None",
        "world 1 4",
        "world 3 2",
        "world 2 2",
    ]


def test_stop_request_ends_a_disturbed_job(tmp_path: Path) -> None:
    class StopAfterCut(StopRequest):
        @property
        def submitted(self) -> bool:
            return (tmp_path / "cut").exists()

    code = CONNECTED + f"time.sleep(0.5); pathlib.Path({str(tmp_path / 'cut')!r}).touch(); time.sleep(60)"
    job = hosts_job(code, tmp_path)
    result = run_job(job, tmp_path / "ml", Interruption(Moment(0.0, "is connected", 2), "cut"), StopAfterCut())
    assert (result.status, exit_codes(result)) == ("Stopped", [143, 143])


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
