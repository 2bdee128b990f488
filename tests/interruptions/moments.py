"""Random moments at which a job's machine is taken away."""

from __future__ import annotations

import random

from tests.interruptions.starts import Disturbance

UNFINISHED = "*.sagemaker-ignore"
UPLOADING = "*.sagemaker-uploading"


def draw_moment(rng: random.Random) -> Disturbance:
    """Any moment of a start: after its begin, its first step or an epoch line, or during a checkpoint write."""
    kind = rng.choice(("time", "training", "training", "epoch", "writing", "uploading"))
    seconds = rng.uniform(0.0, 1.0)
    if kind == "training":  # a start that is killed earlier, which is common on a busy machine, has changed nothing
        return after_line("first batch trained", seconds)
    if kind == "epoch":
        return after_line(r"epoch=", rng.uniform(0.0, 0.3), rng.randint(1, 2))
    if kind == "writing":
        return at_file(UNFINISHED, seconds, rng.uniform(0.0, 0.02))
    if kind == "uploading":
        return at_file(UPLOADING, seconds, rng.uniform(0.0, 0.02))
    return after(seconds)


def draw_late_moment(rng: random.Random, too_late: int) -> Disturbance:
    """A moment after the last step: during export, export check or report, or in a start of a finished job.

    The more often the moment came too late, the earlier it is: machines differ in how long this takes.
    """
    kind, fraction = rng.choice(("export", "exported", "time")), 0.8**too_late
    if kind == "export":
        return at_artifact(rng.uniform(0.0, 0.02) * fraction)
    if kind == "exported":
        return after_line("Exported", rng.uniform(0.0, 0.2) * fraction)
    return after(rng.uniform(0.0, 0.5) * fraction)


def after(seconds: float) -> Disturbance:
    """`seconds` after the start."""
    return Disturbance(f"{seconds:.3f} s after the start", lambda view: view.seconds >= seconds)


def after_line(line: str, seconds: float, occurrence: int = 1) -> Disturbance:
    """`seconds` after the n-th log line that starts with `line`."""
    name = f"{seconds:.3f} s after line {line!r} number {occurrence}"
    return Disturbance(name, lambda view: f"\n{view.text()}".count(f"\n{line}") >= occurrence, seconds)


def at_file(pattern: str, earliest: float, seconds: float) -> Disturbance:
    """When a matching file exists in a checkpoint folder."""
    name = f"{seconds:.3f} s after a {pattern} that is seen after {earliest:.3f} s"
    return Disturbance(name, lambda view: view.seconds >= earliest and view.checkpoints(pattern) > 0, seconds)


def at_startup() -> Disturbance:
    """As soon as the job handles SIGTERM, while it reads its request."""
    return Disturbance("as soon as it is heard", lambda view: view.handles_sigterm())


def at_artifact(seconds: float) -> Disturbance:
    """When the artifact is being written."""
    return Disturbance("during the export", lambda view: (view.folder.model / ".artifact.partial").exists(), seconds)


def after_uploads(count: int) -> Disturbance:
    """When `count` checkpoints of this start are completely uploaded to S3."""
    return Disturbance(f"{count} checkpoints are uploaded", lambda view: view.uploaded() >= count)
