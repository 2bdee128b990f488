"""The platform's side of a SageMaker training job, in a folder: for tests, and for jobs on a laptop."""

from sagemaker_simulator.configuration import Channel, RequestError, Resources, TrainingRequest
from sagemaker_simulator.interruptions import Interruption, Moment, Schedule, draw_interruptions
from sagemaker_simulator.job import run_job
from sagemaker_simulator.layout import JobFolder, lay_out
from sagemaker_simulator.plan import StopButton, TrainingJob
from sagemaker_simulator.process import toolkit_command
from sagemaker_simulator.result import JobResult, Status
from sagemaker_simulator.spot import run_with_interruptions
from sagemaker_simulator.storage import Storage
from sagemaker_simulator.sync_agent import SyncAgent, SyncOptions, restore

__all__ = [
    "Channel",
    "Interruption",
    "JobFolder",
    "JobResult",
    "Moment",
    "RequestError",
    "Resources",
    "Schedule",
    "Status",
    "StopButton",
    "Storage",
    "SyncAgent",
    "SyncOptions",
    "TrainingJob",
    "TrainingRequest",
    "draw_interruptions",
    "lay_out",
    "restore",
    "run_job",
    "run_with_interruptions",
    "toolkit_command",
]
