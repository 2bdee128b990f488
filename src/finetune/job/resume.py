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
from finetune.checkpoint.store import CheckpointStore, TooLateError
from finetune.checkpoint.writer import BackgroundWriter
from finetune.config.hyperparameters import CheckpointSpec, JobSpec, Task
from finetune.data.loading.dataset import Subset
from finetune.errors import JobStopped, UserError
from finetune.job.inputs import Inputs
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import digest_of_weights, frozen_names
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

_SHOWN_DIFFERENCES = 6


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

    return S3Mirror(store, S3Location.parse(spec.s3_uri), asked_to_stop=lambda: interruption.seconds_ago)


@dataclass(frozen=True, slots=True)
class Kept:
    """Checkpointing during training.

    Attributes:
        checkpoints: saves the state during training.
        load_seconds: time spent on loading a checkpoint.
        seconds: returns the seconds that steps waited for copies, and the seconds of writing in the background.
    """

    checkpoints: Checkpoints
    load_seconds: float
    seconds: Callable[[], tuple[float, float]]


@contextmanager
def keeping(
    folder: Path | None,
    spec: CheckpointSpec,
    specify: Callable[[], Specification],
    state: TrainingState,
    interruption: Interruption,
) -> Iterator[Kept]:
    """Resume from the newest checkpoint, and write further ones in the background until the context exits.

    Args:
        folder: of the checkpoints; `None` if they would not outlive the job.
        spec: whether to resume, and how often to save.
        specify: returns the specification of the job, computed from the weights before training.
        state: the state to restore and save.
        interruption: stop request of the job.

    Raises:
        UserError: the checkpoint belongs to another request, or one is required and there is none.
        PlatformError: the folder cannot be read.
        JobStopped: the job was stopped while it waited for a checkpoint.
    """
    if folder is None:
        if spec.resume == "required":
            raise UserError("resume=required, but the job has no checkpoint folder: give it a checkpoint_s3_uri.")
        yield Kept(NoCheckpoints(), 0.0, lambda: (0.0, 0.0))
        return
    specification = specify()
    began = time.monotonic()
    store = open_store(folder, spec, interruption)
    try:
        resumed = take_up(store, spec, specification, state)
    except TooLateError as error:
        raise JobStopped from error
    load_seconds = time.monotonic() - began
    with BackgroundWriter(store) as writer:
        checkpoints = Checkpointing(writer, specification, Cadence(spec.interval_steps, spec.interval_seconds))
        if resumed:
            checkpoints.resumed(state)
        yield Kept(checkpoints, load_seconds, lambda: (checkpoints.stalled, writer.seconds))


def specification_of(
    spec: JobSpec, inputs: Inputs, backbone: Backbone, plan: Plan, numerics: Numerics
) -> Specification:
    """Everything that determines the bits of the result, except hardware: request, records, model, weights."""
    fields: dict[str, object] = {}
    frozen = frozen_names(backbone, plan.ever_trainable)
    for section in (spec.data, spec.optimisation, spec.run):
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
            name: _digest_of_records(part, inputs.task) for name, part in inputs.parts().items() if name != "test"
        },
        "streams": {name: part.count for name, part in inputs.streams.items()},
        "network": backbone.name,
        "precision": numerics.name,  # resolved, if `auto`
        "frozen weights": digest_of_weights(backbone, frozen),
        # Their trained values are in the checkpoint, but other initial weights make it another request.
        "given weights": digest_of_weights(backbone, backbone.module.state_dict().keys() - frozen),
    }
    return Specification.of(fields)


def _digest_of_records(part: Subset, task: Task) -> str:
    """Digest of keys and labels, and of texts, which are in memory; images are identified by name only."""
    digest = hashlib.blake2b(digest_size=16)
    for index in part.indices:
        content = part.reader.read(index).content if task == "text-classification" else ""
        digest.update(repr((part.reader.key(index), part.reader.labels(index), content)).encode())
    return digest.hexdigest()


def take_up(store: Store, spec: CheckpointSpec, ours: Specification, state: TrainingState) -> bool:
    """Restore the newest complete checkpoint, if there is one and `resume` allows it.

    Returns:
        Whether the state was restored.

    Raises:
        UserError: the checkpoint belongs to another request or version, or one is required and there is none.
    """
    found = store.restore()
    if spec.resume == "never":
        if found is not None:
            logger.info("Checkpoint %s is not taken up: resume=never.", found.manifest.name)
        return False
    if found is None:
        if spec.resume == "required":
            raise UserError(
                "resume=required, but there is no complete checkpoint: name the place of one (checkpoint_s3_uri of the"
                " estimator), or choose resume=auto."
            )
        return False
    _compare(found, ours)
    try:
        state.load(found.parts)
    except ValueError as error:
        raise UserError(
            f"Checkpoint {found.manifest.name} is whole, but not of this version of the image: {error}. Use the version"
            " that wrote it, or another checkpoint folder, or start anew with resume=never."
        ) from error
    logger.info(
        "Resumed from checkpoint %s: epoch %d, step %d.",
        found.manifest.name,
        state.progress.epoch + 1,
        state.progress.step,
    )
    return True


def _compare(found: LoadedCheckpoint, ours: Specification) -> None:
    theirs = found.manifest.about.specification
    if theirs.digest == ours.digest:
        return
    differing = theirs.differing_fields(ours)
    forbidden = [name for name in differing if name not in CHANGEABLE]
    before, now = theirs.fields.get("epochs"), ours.fields.get("epochs")
    if isinstance(before, int) and isinstance(now, int) and now < before:
        forbidden.append("epochs")
    if forbidden:
        listed = "; ".join(_difference(name, theirs, ours) for name in forbidden[:_SHOWN_DIFFERENCES])
        if len(forbidden) > _SHOWN_DIFFERENCES:
            listed += f"; and {len(forbidden) - _SHOWN_DIFFERENCES} more"
        raise UserError(
            f"Checkpoint {found.manifest.name} belongs to another request: {listed}. Give the same request, or another"
            " checkpoint folder, or start anew with resume=never."
        )
    logger.info("Changed since the checkpoint: %s.", "; ".join(_difference(name, theirs, ours) for name in differing))


def _difference(name: str, theirs: Specification, ours: Specification) -> str:
    before, now = theirs.fields.get(name), ours.fields.get(name)
    if name in {"records", "classes", "frozen weights", "given weights"}:
        return f"the {name} differ"
    return f"{name} was {before!s:.80}, is {now!s:.80}"
