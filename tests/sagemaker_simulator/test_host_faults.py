"""Interruptions and faults of single hosts, processes and network links."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagemaker_simulator import (
    Interruption,
    Moment,
    RequestError,
    StopRequest,
    World,
    run_job,
    run_with_interruptions,
)
from sagemaker_simulator.interruptions import Kind
from tests.support.simulated_hosts import (
    ALL_CONNECTED,
    CONNECTED,
    ECHO,
    EXIT_3_WHEN_CLOSED,
    EXIT_ON_SIGTERM,
    READY,
    exit_codes,
    hosts_job,
    logs,
    needs_hosts,
)

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, needs_hosts]


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
