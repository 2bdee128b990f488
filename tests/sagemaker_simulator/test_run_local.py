"""The command line: its runs, output and errors."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sagemaker_simulator import Hosts, World
from sagemaker_simulator.arguments import parse_command_line
from sagemaker_simulator.cli import USAGE_EXIT_CODE, main
from tests.support.simulated_hosts import needs_hosts
from tests.support.simulated_jobs import eventually

RUN_LOCAL = Path(__file__).parents[2] / "scripts" / "run-local"

BAD_REQUESTS = {
    "missing path": (["--channel", "train=nowhere", "--", "true"], "nowhere does not exist"),
    "channel without path": (["--channel", "train", "--", "true"], "--channel NAME=PATH"),
    "duplicate channel": (["--channel", "a=.", "--channel", "a=.", "--", "true"], "more than once"),
    "content type of unknown channel": (["--content-type", "a=text/csv", "--", "true"], "no channel 'a'"),
    "invalid time": (["--interrupt-at", "soon", "--", "true"], "'random'"),
    "negative time": (
        ["--interrupt-at", "-5", "--", "true"],
        "--interrupt-at -5: expected a non-negative number",
    ),
    "infinite time": (["--interrupt-at", "inf", "--", "true"], "number of seconds or 'random'"),
    "negative range of random times": (
        ["--interrupt-at", "random", "--within", "-1", "--", "true"],
        "--within -1: expected a non-negative number",
    ),
    "invalid grace period": (
        ["--grace", "nan", "--", "true"],
        "--grace nan: expected a non-negative number",
    ),
    "unknown command": (["--", "no-such-program"], "'no-such-program' was not found"),
    "no command and no module": ([], "nothing to run"),
    "unknown input mode": (["--channel", "a=.", "--input-mode", "Tube", "--", "true"], "one of File, FastFile, Pipe"),
    "input mode of unknown channel": (["--channel", "a=.", "--input-mode", "b=Pipe", "--", "true"], "no channel 'b'"),
    "pipe options without Pipe mode": (["--channel", "a=.", "--shuffle-seed", "1", "--", "true"], "--input-mode Pipe"),
    "invalid shard": (["--channel", "a=.", "--input-mode", "Pipe", "--shard", "2/2", "--", "true"], "from 0 to"),
    "invalid seed": (["-c", "a=.", "--input-mode", "Pipe", "--shuffle-seed", "x", "--", "true"], "at least 0"),
    "invalid rate": (["-c", "a=.", "--input-mode", "Pipe", "--pipe-rate", "0", "--", "true"], "at least 0.001"),
    "conflicting shards": (
        ["-c", "a=.", "-c", "b=.", "--input-mode", "Pipe", "--shard", "0/2", "--shard", "b=1/2", "--", "true"],
        "one host of a job",
    ),
    "attributes without manifest": (
        ["-c", "a=.", "--input-mode", "Pipe", "--attribute-names", "x", "--data-type", "S3Prefix", "--", "true"],
        "--data-type AugmentedManifestFile",
    ),
    "no hosts": (["--hosts", "0", "--", "true"], "--hosts 0: expected an integer of at least 1"),
    "invalid number of processes": (["--processes-per-host", "two", "--", "true"], "--processes-per-host two"),
    "late host without hosts": (["--late", "algo-2=5", "--", "true"], "--late applies only to jobs on several hosts"),
    "unknown late host": (["--hosts", "2", "--late", "algo-3=5", "--", "true"], "the hosts are algo-1, algo-2"),
    "unknown interrupted host": (["--interrupt-host", "algo-2", "--", "true"], "expected 'random' or one of algo-1"),
    "link of a single host": (["--interruption", "cut", "--", "true"], "several hosts; add --hosts"),
    "unknown interruption": (["--interruption", "flood", "--", "true"], "--interruption flood: expected kill, reclaim"),
    "amount of a kill": (["--interruption", "kill=3", "--", "true"], "--interruption kill=3: expected kill, reclaim"),
    "too much loss": (["--hosts", "2", "--interruption", "loss=101", "--", "true"], "positive number of at most 100"),
    "invalid world": (["--restart-with", "2x", "--", "true"], "--restart-with 2x, such as 2x4"),
    "unknown distribution": (
        ["--channel", "a=.", "--distribution", "Sharded", "--", "true"],
        "--distribution Sharded: expected one of FullyReplicated, ShardedByS3Key",
    ),
    "hosts with --shard": (
        ["--channel", "a=.", "--input-mode", "Pipe", "--shard", "0/2", "--hosts", "2", "--", "true"],
        "--shard simulates one of several hosts",
    ),
    "hosts of an image": (
        ["--hosts", "2", "--image", "finetune", "--", "true"],
        "instance_type='local', instance_count=2",
    ),
    "job name with space": (["--job-name", "my job", "--", "true"], "job name 'my job'"),
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments, message", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_invalid_request_is_reported(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == USAGE_EXIT_CODE
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


BAD_MANIFESTS = {
    "different attribute name": (
        '{"source-ref": "a.png", "class": 1}\n',
        "line 1 has no attribute 'clas'; available for --attribute-names: source-ref, class",
    ),
    "attribute missing in one line": (
        '{"source-ref": "a.png", "clas": 1}\n\n{"source-ref": "a.png"}\n',
        "line 3 has no attribute 'clas'",
    ),
    "missing object": ('{"source-ref": "b.png", "clas": 1}\n', "line 1 refers to an invalid object: "),
    "not a JSON object": ("[1]\n", "line 1 is not a JSON object"),
    "invalid JSON": ("clas\n", "line 1 is not JSON"),
}


@pytest.mark.parametrize("manifest, message", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_manifest_fault_is_reported_with_line(
    manifest: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.manifest").write_text(manifest)
    (tmp_path / "a.png").write_bytes(b"a picture")
    options = ["-c", "train=m.manifest", "--input-mode", "Pipe", "--attribute-names", "source-ref,clas"]
    assert main([*options, "--", "true"]) == USAGE_EXIT_CODE
    output = capfd.readouterr().err
    assert output.startswith("run-local: channel 'train': m.manifest, ")
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        (".", ["--attribute-names", "x"], "is not a file; --data-type AugmentedManifestFile requires"),
        ("a.txt", ["--data-type", "ManifestFile"], "a.txt is not a manifest: expected a JSON list"),
        ("list", ["--data-type", "ManifestFile"], "b.txt does not exist"),
        ("a.txt", ["--gzip"], "a.txt is not compressed with gzip; remove --gzip"),
    ],
)
def test_unsendable_source_is_reported(
    path: str, options: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "list").write_text('[{"prefix": "s3://bucket/"}, "a.txt", "b.txt"]')
    assert main(["-c", f"train={path}", "--input-mode", "Pipe", *options, "--", "true"]) == USAGE_EXIT_CODE
    assert message in capfd.readouterr().err


def test_nonempty_output_folder_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", "taken", "--", "true"]) == 0
    assert main(["--output", "taken", "--", "true"]) == USAGE_EXIT_CODE
    assert "not empty" in capsys.readouterr().err


def test_failed_job_returns_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code = "echo 'label column is missing' > $SAGEMAKER_BASE_DIR/output/failure; exit 3"
    assert main(["--output", "out", "--", "sh", "-c", code]) == 3
    out = capsys.readouterr().out
    assert "Failed" in out
    assert "label column is missing" in out


def test_quiet_writes_log_only_to_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", "out", "--quiet", "--", "echo", "hello"]) == 0
    assert "hello" not in capsys.readouterr().out
    assert (tmp_path / "out" / "s3" / "logs" / "000.log").read_text() == "hello\n"


def test_interruptions_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    code = "[ -e seen ] || { touch seen; sleep 60; }"
    arguments = ["--output", "out", "--interrupt-at", "random", "--within", "0.2", "--seed", "5"]
    assert main([*arguments, "--", "sh", "-c", code]) == 0
    out = capsys.readouterr().out
    assert "seed         5" in out
    assert "start 0      Interrupted" in out
    assert "start 1      Completed" in out


def test_restart_with_other_number_of_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "cat $SAGEMAKER_BASE_DIR/input/config/hyperparameters.json; [ -e seen ] || { touch seen; sleep 60; }"
    arguments = ["--output", "out", "--interrupt-at", "0.5", "--processes-per-host", "2", "--restart-with", "1x3"]
    assert main([*arguments, "--interruption", "kill_rank", "--", "sh", "-c", code]) == 0
    logs = sorted((tmp_path / "out" / "s3" / "logs").iterdir())
    assert [json.loads(log.read_text().removesuffix("Killed\n")) for log in logs] == [
        {"processes_per_host": number} for number in ("2", "3")
    ]
    out = capsys.readouterr().out
    assert "restart 1    1 host, 3 processes per host" in out
    assert "after the interruption, exit code 137" in out


@pytest.mark.slow
@needs_hosts
def test_several_hosts_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).write_text(name)
    code = "cat $SAGEMAKER_BASE_DIR/input/data/train/*; hostname"
    arguments = ["--output", "out", "--hosts", "2", "--channel", "train=data", "--distribution", "ShardedByS3Key"]
    assert main([*arguments, "--late", "algo-2=0.1", "--names-after", "0.1", "--", "sh", "-c", code]) == 0
    out = capfd.readouterr().out
    for line in ("algo-1 | aalgo-1", "algo-2 | balgo-2", "start 0      Completed", "  algo-2     exit code 0"):
        assert f"\n{line}" in out


@needs_hosts
def test_interruption_of_a_link_from_the_command_line() -> None:
    options = ["--hosts", "2", "--mirror-deletions", "--failure-timeout", "7", "--interrupt-at", "3"]
    options += [
        "--interruption",
        "slow=4",
        "--interrupt-host",
        "algo-2",
        "--restore-after",
        "2",
        "--restart-with",
        "1x2,2",
    ]
    command_line = parse_command_line([*options, "--", "true"])
    (interruption,) = command_line.interruptions
    assert (interruption.kind, interruption.extent, interruption.host) == ("slow", 4.0, "algo-2")
    assert (interruption.moment.seconds, interruption.duration_seconds) == (3.0, 2.0)
    assert command_line.worlds == (World(1, 2), World(2))
    assert command_line.job.sync.mirror_deletions
    assert command_line.job.hosts == Hosts(2, failure_seconds=7.0)


def test_restarts_are_determined_by_seed() -> None:
    random_world = ["--interrupt-at", "random", "--interruption", "random", "--restart-with", "random"]
    starts = [parse_command_line([*random_world * 9, "--seed", str(seed), "--", "true"]) for seed in (1, 1, 2)]
    assert starts[0].interruptions == starts[1].interruptions != starts[2].interruptions
    assert starts[0].worlds == starts[1].worlds != starts[2].worlds
    assert {world.processes_per_host for world in starts[0].worlds} == {1, 2, 3, 4}
    assert {interruption.kind for interruption in starts[0].interruptions} == {"kill", "reclaim", "kill_rank"}


def test_script_runs_job_with_channels(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    code = "cat $SAGEMAKER_BASE_DIR/input/data/train/file $SAGEMAKER_BASE_DIR/input/config/hyperparameters.json"
    command = [str(RUN_LOCAL), "--channel", "train=data", "-p", "epochs=3", "--", "sh", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'content{"epochs": "3"}' in run.stdout
    assert "model.tar.gz" in run.stdout


def test_script_has_help() -> None:
    run = subprocess.run([RUN_LOCAL, "--help"], capture_output=True, text=True, check=True)
    assert "--interrupt-at" in run.stdout
    assert "Ctrl-C" in run.stdout


@pytest.mark.parametrize("times, code", [(1, 0), (2, 130)])
def test_first_interrupt_stops_and_second_kills(tmp_path: Path, times: int, code: int) -> None:
    handler = f"os.write(1, b'stopping\\n') and {times} == 1 and sys.exit(0)"
    listen = f"import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: {handler})"
    job = f"{listen}; print('ready', flush=True); time.sleep(60)"
    log = tmp_path / "out" / "s3" / "logs" / "000.log"
    with subprocess.Popen([RUN_LOCAL, "--output", "out", "--quiet", "--", sys.executable, "-c", job]) as run:
        eventually(lambda: log.exists() and "ready" in log.read_text())
        run.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in log.read_text() or run.poll() is not None)
        if times == 2:
            run.send_signal(signal.SIGINT)
        assert run.wait(20) == code


def test_pipe_mode_channel_is_sent_through_pipe(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("1,text\n")
    read = (
        "cat $SAGEMAKER_BASE_DIR/input/data/train_0; grep -o Pipe $SAGEMAKER_BASE_DIR/input/config/inputdataconfig.json"
    )
    wait = "while [ ! -p $SAGEMAKER_BASE_DIR/input/data/train_0 ]; do sleep 0.01; done; "
    options = ["--output", "out", "--quiet", "--input-mode", "Pipe", "--channel", "train=train.csv"]
    assert main([*options, "--", "sh", "-c", wait + read]) == 0
    assert (tmp_path / "out" / "s3" / "logs" / "000.log").read_text() == "1,text\nPipe\n"


def test_input_modes_and_pipe_options_apply_per_channel(tmp_path: Path) -> None:
    for name in ("train", "validation", "labels"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.csv.gz").write_bytes(gzip.compress(f"{name}{number}\n".encode()))
    read = "cat $SAGEMAKER_BASE_DIR/input/data/train_0 $SAGEMAKER_BASE_DIR/input/config/*.json"
    wait = "while [ ! -p $SAGEMAKER_BASE_DIR/input/data/train_0 ]; do sleep 0.01; done; "
    channels = [f"--channel={name}={name}" for name in ("train", "validation", "labels")]
    modes = ["--input-mode", "Pipe", "--input-mode", "validation=FastFile"]
    pipe_options = ["--gzip", "--shard", "train=1/2", "--shuffle-seed", "train=3", "--pipe-rate", "100"]
    assert main(["--output", "out", "--quiet", *channels, *modes, *pipe_options, "--", "sh", "-c", wait + read]) == 0
    log = (tmp_path / "out" / "s3" / "logs" / "000.log").read_text()
    lines = log.partition("{")[0].splitlines()
    assert (len(lines), {line[:-1] for line in lines}) == (2, {"train"})
    config = tmp_path / "out" / "opt-ml" / "input" / "config"
    configuration = json.loads((config / "inputdataconfig.json").read_text())
    assert {name: entry["TrainingInputMode"] for name, entry in configuration.items()} == {
        "train": "Pipe",
        "validation": "File",
        "labels": "File",
    }
    assert configuration["train"]["S3DistributionType"] == "ShardedByS3Key"
    resources = json.loads((config / "resourceconfig.json").read_text())
    assert (resources["current_host"], resources["hosts"]) == ("algo-2", ["algo-1", "algo-2"])


def test_help_lists_every_option() -> None:
    run = subprocess.run([RUN_LOCAL, "--help"], capture_output=True, text=True, check=True)
    for option in (
        "hosts",
        "restart-with",
        "interrupt-host",
        "distribution",
        "input-mode",
        "attribute-names",
        "data-type",
        "shuffle-seed",
        "shard",
        "record-wrapper",
        "gzip",
    ):
        assert f"--{option}" in run.stdout
