"""Whether a checkpoint is one of this very request, and what may differ when it is taken up."""

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
from finetune.checkpoint.manifest import About, Specification
from finetune.checkpoint.reading import LoadedCheckpoint
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.store import CheckpointStore, TooLateError
from finetune.checkpoint.writer import BackgroundWriter
from finetune.config.hyperparameters import CheckpointSpec, JobSpec, Task
from finetune.data.loading.dataset import Part
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
"""Hyperparameters that may differ from those of the checkpoint; `epochs` may only grow. See docs/interruptions.md."""

_SHOWN_DIFFERENCES = 6


class Store(Protocol):
    """Where checkpoints come from and go to."""

    def restore(self) -> LoadedCheckpoint | None:
        """The newest complete one."""
        ...

    def write(self, snapshot: Snapshot, about: About) -> CheckpointName:
        """Write one, whole or not at all."""
        ...


def open_store(folder: Path, spec: CheckpointSpec, interruption: Interruption) -> Store:
    """The checkpoints below `folder`, copied to S3 where the user names a place there.

    Raises:
        UserError: the place is none, or may not be used.
    """
    store = CheckpointStore(folder, spec.keep)
    if spec.s3_uri is None:
        return store
    from finetune.checkpoint.s3 import S3Mirror  # with boto3, which most jobs need not wait for
    from finetune.checkpoint.s3_access import S3Location

    return S3Mirror(store, S3Location.parse(spec.s3_uri), asked_to_stop=lambda: interruption.seconds_ago)


@dataclass(frozen=True, slots=True)
class Kept:
    """The keeping of a state while it is trained.

    Attributes:
        load_seconds: spent on taking up a checkpoint.
        seconds: seconds that steps waited for copies, and that writing took beside them.
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
    """Take up the newest checkpoint, and write further ones beside training until the context is left.

    Args:
        folder: of the checkpoints; `None` where nobody would keep them.
        spec: which are taken up, and how often they are written.
        specify: tells what the job is, before it has learnt anything.
        state: what is kept.
        interruption: that of the job.

    Raises:
        UserError: the checkpoint is one of another request, or one is required and there is none.
        PlatformError: the folder cannot be read.
        JobStopped: the job was asked to stop while it waited for a checkpoint.
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
    """Everything that decides the bits of the result but the hardware: request, records, network, weights."""
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
        "precision": numerics.name,  # what `auto` came to
        "frozen weights": digest_of_weights(backbone, frozen),
        # What these became is in the checkpoint, and yet another network is another request.
        "given weights": digest_of_weights(backbone, backbone.module.state_dict().keys() - frozen),
    }
    return Specification.of(fields)


def _digest_of_records(part: Part, task: Task) -> str:
    """Of the keys and labels of a part's records, and of texts, which are in memory; pictures are known by name."""
    digest = hashlib.blake2b(digest_size=16)
    for index in part.indices:
        content = part.reader.read(index).content if task == "text-classification" else ""
        digest.update(repr((part.reader.key(index), part.reader.labels(index), content)).encode())
    return digest.hexdigest()


def take_up(store: Store, spec: CheckpointSpec, ours: Specification, state: TrainingState) -> bool:
    """Take up the newest complete checkpoint, if there is one and the user allows it.

    Returns:
        Whether the state is now that of a checkpoint.

    Raises:
        UserError: the checkpoint is one of another request or of another version, or one is required and there is none.
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
        state.take_up(found.parts)
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
