"""A job on two hosts, with a sharded model, that loses a process and continues on one host gives the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sagemaker_simulator import (
    Hosts,
    Interruption,
    Moment,
    World,
    run_with_interruptions,
)
from tests.interruptions.jobs import RULES_WITHOUT_TENSORS, vision_job
from tests.interruptions.results import assert_same_bits, read_output
from tests.interruptions.starts import Zygote
from tests.support.forked_ranks import train_in_ranks
from tests.support.simulated_hosts import needs_hosts

MAX_SECONDS_TO_END = 60.0


@pytest.mark.slow
@needs_hosts
def test_failure_names_the_killed_process_and_job_continues_on_one_host(zygote: Zygote, tmp_path: Path) -> None:
    job = vision_job(tmp_path / "job", "full", virtual_devices="2", rules=RULES_WITHOUT_TENSORS, sharding="full")
    whole = train_in_ranks(zygote, job.request, tmp_path / "whole", 1)

    interruption = Interruption(Moment(0.0, "^epoch=2"), "kill_rank", host="algo-2")
    two_hosts = replace(job, hosts=Hosts(2))
    interrupted, last = run_with_interruptions(two_hosts, tmp_path / "ml", [interruption], worlds=[World(1)])
    assert (interrupted.status, last.status) == ("Interrupted", "Completed"), last.log_text()
    assert [(host.exit_code != 0, host.was_killed) for host in interrupted.hosts] == [(True, False)] * 2
    assert "divided among 2 processes" in interrupted.log_text()
    assert "Resumed from checkpoint" in last.log_text()
    for host in interrupted.hosts:
        assert "algo-2: Process 1 was killed by SIGKILL" in (host.failure or ""), host.failure
    assert (interrupted.seconds_after_interruption or 0.0) < MAX_SECONDS_TO_END
    assert_same_bits(read_output(last.folder), read_output(whole))
