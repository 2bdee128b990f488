"""Checks that a checkpoint belongs to this request, resumes from it, and saves further ones."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import CheckpointInfo, Specification
from finetune.checkpoint.reading import LoadedCheckpoint
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.store import CheckpointStore, StopDeadlineError
from finetune.checkpoint.writer import BackgroundWriter
from finetune.config.hyperparameters import CheckpointSpec, JobSpec, TaskName
from finetune.data.loading.dataset import Subset
from finetune.distributed.world import World
from finetune.errors import JobStopped, UserError
from finetune.job.inputs import Inputs
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import digest_weights, frozen_names
from finetune.runtime.precision import Numerics
from finetune.sagemaker.interruption import Interruption
from finetune.strategies.plan import Plan
from finetune.training.checkpointing import Cadence, Checkpointing
from finetune.training.state import TrainingState
from finetune.training.trainer import Checkpoints, NoCheckpoints

logger = logging.getLogger(__name__)

CHANGEABLE = (
    *("epochs", "workers", "max_bad_records", "top_k", "num_classes", "num_training_samples"),
    "pipe_wait_seconds",
)
"""Hyperparameters that may change on resume; `epochs` may only increase. See docs/interruptions.md."""

MAX_SHOWN_DIFFERENCES = 6


class Store(Protocol):
    """Reads and writes checkpoints."""

    def restore(self) -> LoadedCheckpoint | None:
        """Load the newest complete checkpoint, if any."""
        ...

    def write(self, snapshot: Snapshot, about: CheckpointInfo) -> CheckpointName:
        """Write a checkpoint atomically."""
        ...


def open_store(folder: Path, spec: CheckpointSpec, interruption: Interruption) -> Store:
    """Open the checkpoints in `folder`, mirrored to S3 if the user gives an `s3_uri`.

    Raises:
        UserError: the S3 location is invalid or not accessible.
    """
    store = CheckpointStore(folder, spec.keep)
    if spec.s3_uri is None:
        return store
    from finetune.checkpoint.s3 import S3Mirror  # imports boto3, which most jobs do not need
    from finetune.checkpoint.s3_access import S3Location

    return S3Mirror(store, S3Location.parse(spec.s3_uri), seconds_since_stop=lambda: interruption.seconds_ago)


@dataclass(frozen=True, slots=True)
class JobCheckpoints:
    """Checkpoints of the running job.

    Attributes:
        saver: saves the state during training.
        load_seconds: time spent on loading a checkpoint.
        save_seconds: returns the seconds that steps waited for copies, and the seconds of writing in the background.
    """

    saver: Checkpoints
    load_seconds: float
    save_seconds: Callable[[], tuple[float, float]]


@contextmanager
def open_checkpoints(
    folder: Path | None,
    spec: CheckpointSpec,
    compute_specification: Callable[[], Specification],
    state: TrainingState,
    interruption: Interruption,
    world: World,
) -> Iterator[JobCheckpoints]:
    """Resume from the newest checkpoint, and write further ones in the background until the context exits.

    Args:
        folder: folder of the checkpoints; `None` if they would not outlive the job.
        spec: whether to resume, and how often to save.
        compute_specification: returns the specification of the job, computed from the weights before training.
        state: the state to restore and save.
        interruption: stop request of the job.
        world: the processes of the job; all of them resume, and the main process saves.

    Raises:
        UserError: the checkpoint belongs to another request, or one is required and there is none.
        PlatformError: the folder cannot be read.
        JobStopped: the job was stopped while it waited for a checkpoint.
    """
    if folder is None:
        if spec.resume == "required":
            raise UserError(
                "resume=required, but the job has no checkpoint folder: set checkpoint_s3_uri of the estimator."
            )
        yield JobCheckpoints(NoCheckpoints(), 0.0, lambda: (0.0, 0.0))
        return
    specification = compute_specification()
    started = time.monotonic()
    if not world.is_main:
        # The main process restores first: it downloads checkpoints and removes remains of interrupted writes.
        world.barrier()
        resume_from(CheckpointStore(folder).newest_complete(), spec, specification, state)
        yield JobCheckpoints(NoCheckpoints(), time.monotonic() - started, lambda: (0.0, 0.0))
        return
    store = open_store(folder, spec, interruption)
    try:
        checkpoint = store.restore()
    except StopDeadlineError as error:
        raise JobStopped from error
    world.barrier()
    resumed = resume_from(checkpoint, spec, specification, state)
    load_seconds = time.monotonic() - started
    with BackgroundWriter(store) as writer:
        saver = Checkpointing(writer, specification, Cadence(spec.interval_steps, spec.interval_seconds))
        if resumed:
            saver.resumed(state)
        yield JobCheckpoints(saver, load_seconds, lambda: (saver.stalled, writer.seconds))


def build_specification(
    spec: JobSpec, inputs: Inputs, backbone: Backbone, plan: Plan, numerics: Numerics
) -> Specification:
    """Everything that determines the bits of the result, except hardware: request, records, model, weights."""
    fields: dict[str, object] = {}
    frozen = frozen_names(backbone, plan.ever_trainable)
    for section in (spec.data, spec.optimization, spec.run):
        fields |= section.model_dump()
    fields |= {
        "strategy": spec.strategy.name,
        "unfrozen_groups": spec.strategy.unfrozen_groups,
        "layer_decay": spec.strategy.layer_decay,
        "dropout": spec.model.dropout,
        "feature_cache": spec.features.cache,
        "augmentation_views": spec.features.views,
        "kept head": backbone.weights.kept_head,
        "classes": list(inputs.labels.names),
        "records": {
            name: _digest_of_records(part, inputs.task_name) for name, part in inputs.parts().items() if name != "test"
        },
        "streams": {name: part.count for name, part in inputs.streams.items()},
        "network": backbone.name,
        "precision": numerics.name,  # resolved, if `auto`
        "frozen weights": digest_weights(backbone, frozen),
        # Their trained values are in the checkpoint, but other initial weights make it another request.
        "given weights": digest_weights(backbone, backbone.module.state_dict().keys() - frozen),
    }
    return Specification.of(fields)


def _digest_of_records(part: Subset, task: TaskName) -> str:
    """Digest of keys and labels, and of texts, which are in memory; images are identified by name only."""
    digest = hashlib.blake2b(digest_size=16)
    for index in part.indices:
        content = part.reader.read(index).content if task == "text-classification" else ""
        digest.update(repr((part.reader.key(index), part.reader.labels(index), content)).encode())
    return digest.hexdigest()


def resume_from(
    checkpoint: LoadedCheckpoint | None, spec: CheckpointSpec, ours: Specification, state: TrainingState
) -> bool:
    """Restore the state of the newest complete checkpoint, if there is one and `resume` allows it.

    Returns:
        Whether the state was restored.

    Raises:
        UserError: the checkpoint belongs to another request or version, or one is required and there is none.
    """
    if spec.resume == "never":
        if checkpoint is not None:
            logger.info("Ignoring checkpoint %s: resume=never.", checkpoint.manifest.name)
        return False
    if checkpoint is None:
        if spec.resume == "required":
            raise UserError(
                "resume=required, but there is no complete checkpoint: set checkpoint_s3_uri of the estimator to a"
                " location with one, or use resume=auto."
            )
        return False
    _check_specification(checkpoint, ours)
    try:
        state.load(checkpoint.parts)
    except ValueError as error:
        raise UserError(
            f"Checkpoint {checkpoint.manifest.name} is complete, but this version of the image cannot load it:"
            f" {error}. Use the version that wrote it or another checkpoint folder, or start from the beginning with"
            " resume=never."
        ) from error
    logger.info(
        "Resumed from checkpoint %s: epoch %d, step %d.",
        checkpoint.manifest.name,
        state.progress.epoch + 1,
        state.progress.step,
    )
    return True


def _check_specification(checkpoint: LoadedCheckpoint, ours: Specification) -> None:
    """Check that the checkpoint belongs to this request, except for hyperparameters that may change.

    Raises:
        UserError: it belongs to another request.
    """
    theirs = checkpoint.manifest.info.specification
    if theirs.digest == ours.digest:
        return
    differing = theirs.differing_fields(ours)
    forbidden = [name for name in differing if name not in CHANGEABLE]
    before, now = theirs.fields.get("epochs"), ours.fields.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        forbidden.append("epochs")
    if forbidden:
        listed = "; ".join(_difference(name, theirs, ours) for name in forbidden[:MAX_SHOWN_DIFFERENCES])
        if len(forbidden) > MAX_SHOWN_DIFFERENCES:
            listed += f"; and {len(forbidden) - MAX_SHOWN_DIFFERENCES} more"
        raise UserError(
            f"Checkpoint {checkpoint.manifest.name} belongs to another request: {listed}. Use the same request or"
            " another checkpoint folder, or start from the beginning with resume=never."
        )
    logger.info("Changed since the checkpoint: %s.", "; ".join(_difference(name, theirs, ours) for name in differing))


def _difference(name: str, theirs: Specification, ours: Specification) -> str:
    before, now = theirs.fields.get(name), ours.fields.get(name)
    if name in {"records", "classes", "frozen weights", "given weights"}:
        return f"the {name} differ"
    return f"{name} was {before!s:.80}, is {now!s:.80}"
