"""Simulates the platform side of SageMaker training jobs in a local folder, for tests and jobs on a laptop.

    request = TrainingRequest(channels=(Channel("train", Path("data")),), hyperparameters={"epochs": "3"})
    job = TrainingJob(request, toolkit_command(), Storage(Path("job/s3")))
    schedule = Schedule(earliest_seconds=1.0, latest_seconds=30.0, kinds=("kill", "reclaim"))
    results = run_with_interruptions(job, Path("job/opt-ml"), draw_interruptions(schedule, count=5, seed=1))

`TrainingJob(..., hosts=Hosts(2))` runs on two hosts with a network between them. `run_job` runs a single start;
`lay_out` only creates an `/opt/ml`, for tests without a process.
"""

from sagemaker_simulator.configuration import Channel, RequestError, Resources, TrainingRequest
from sagemaker_simulator.container import Container
from sagemaker_simulator.feeder import FeederOptions, PipeFeeder
from sagemaker_simulator.interruptions import Interruption, Moment, Schedule, draw_interruptions
from sagemaker_simulator.job import run_job
from sagemaker_simulator.layout import JobFolder, feed_pipes, lay_out
from sagemaker_simulator.network import reason_unavailable
from sagemaker_simulator.object_stream import PipeSource
from sagemaker_simulator.plan import Hosts, StopRequest, TrainingJob, World
from sagemaker_simulator.process import toolkit_command
from sagemaker_simulator.result import HostResult, JobResult, Status
from sagemaker_simulator.spot import run_with_interruptions
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncAgent, SyncOptions, restore

__all__ = [
    "Channel",
    "Container",
    "FeederOptions",
    "HostResult",
    "Hosts",
    "Interruption",
    "JobFolder",
    "JobResult",
    "Moment",
    "PipeFeeder",
    "PipeSource",
    "RequestError",
    "Resources",
    "Schedule",
    "Status",
    "StopRequest",
    "Storage",
    "SyncAgent",
    "SyncOptions",
    "TrainingJob",
    "TrainingRequest",
    "World",
    "draw_interruptions",
    "feed_pipes",
    "lay_out",
    "reason_unavailable",
    "restore",
    "run_job",
    "run_with_interruptions",
    "toolkit_command",
]
