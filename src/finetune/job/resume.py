"""Checks that a checkpoint belongs to this request, resumes from it, and saves further ones."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import CheckpointInfo, Specification
from finetune.checkpoint.reading import LoadedCheckpoint
from finetune.checkpoint.snapshot import Snapshot
from finetune.checkpoint.store import CheckpointStore, StopDeadlineError
from finetune.checkpoint.writer import BackgroundWriter
from finetune.config.hyperparameters import CheckpointSpec, JobSpec, TaskName
from finetune.data.loading.dataset import Subset
from finetune.data.readers.hosts_reader import readable_records
from finetune.distributed.virtual_devices import VirtualDevices
from finetune.distributed.world import ProcessLostError, World
from finetune.errors import JobStopped, UserError
from finetune.job.data.inputs import Inputs
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import digest_weights, frozen_names
from finetune.monitoring.score import BestMetric
from finetune.runtime.precision import Numerics
from finetune.sagemaker.interruption import Interruption
from finetune.strategies.plan import Plan
from finetune.training.saved_state.checkpointing import Cadence, Checkpointing, SavedByMain
from finetune.training.saved_state.state import TrainingState
from finetune.training.trainer import Checkpoints, NoCheckpoints

logger = logging.getLogger(__name__)

CHANGEABLE = (
    *("epochs", "workers", "max_bad_records", "top_k", "num_classes", "num_training_samples"),
    *("pipe_wait_seconds", "max_minutes"),
)
"""Hyperparameters that may change on resume; `epochs` may only increase. See docs/interruptions.md."""

HALVINGS = "halvings of the batch"
"""Field of the specification of a job whose batch was halved; the other fields are those of the request."""

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
    try:
        from finetune.checkpoint.s3 import S3Mirror  # imports boto3, which most jobs do not need
        from finetune.checkpoint.s3_access import S3Location
    except ModuleNotFoundError as error:
        raise UserError(f"checkpoint_s3_uri needs {error.name}: pip install 'finetune[s3]', or boto3.") from error

    return S3Mirror(store, S3Location.parse(spec.s3_uri), seconds_since_stop=lambda: interruption.seconds_ago)


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """The checkpoint to resume from.

    Attributes:
        store: where checkpoints are written; `None` without a folder, and except in the main process, which alone reads
            and writes checkpoints.
        checkpoint: the newest complete checkpoint, if any; `None` except in the main process.
        devices: the virtual devices of the checkpoint, in all processes; `None` without a checkpoint.
        seconds: time spent on reading the checkpoint.
    """

    store: Store | None
    checkpoint: LoadedCheckpoint | None
    devices: VirtualDevices | None
    seconds: float


def find_checkpoint(
    folder: Path | None, spec: CheckpointSpec, interruption: Interruption, world: World
) -> FoundCheckpoint:
    """Read the newest complete checkpoint in the main process.

    Args:
        folder: folder of the checkpoints; `None` if they would not outlive the job.
        spec: whether to resume, and how often to save.
        interruption: stop request of the job.
        world: the processes of the job.

    Raises:
        UserError: a checkpoint is required and there is none.
        PlatformError: the folder cannot be read.
        JobStopped: the job was stopped while it waited for a checkpoint.
    """
    started = time.monotonic()
    store, checkpoint, stopped = None, None, False
    if folder is not None and world.is_main:
        store = open_store(folder, spec, interruption)
        try:
            checkpoint = store.restore()
        except StopDeadlineError:
            stopped = True
    if world.any(stopped):
        raise JobStopped
    if folder is None and spec.resume == "required":
        raise UserError(
            "resume=required, but the job has no checkpoint folder: set checkpoint_s3_uri of the estimator."
        )
    if checkpoint is not None and spec.resume == "never":
        logger.info("Ignoring checkpoint %s: resume=never.", checkpoint.manifest.name)
        checkpoint = None
    devices = None
    if checkpoint is not None:
        info = checkpoint.manifest.info
        devices = VirtualDevices(info.virtual_devices, info.threads)
    elif store is not None and spec.resume == "required":
        raise UserError(
            "resume=required, but there is no complete checkpoint: set checkpoint_s3_uri of the estimator to a location"
            " with one, or use resume=auto."
        )
    devices = world.broadcast(devices)
    return FoundCheckpoint(store, checkpoint, devices, time.monotonic() - started)


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
def open_checkpoints(  # noqa: PLR0913  # by keyword
    found: FoundCheckpoint,
    spec: CheckpointSpec,
    compute_specification: Callable[[], Specification],
    state: TrainingState,
    world: World,
    devices: VirtualDevices,
    *,
    sharded: bool = False,
) -> Iterator[JobCheckpoints]:
    """Resume all processes, and write further checkpoints in the background until the context exits.

    Args:
        found: the checkpoint to resume from, in the main process.
        spec: how often to save.
        compute_specification: returns the specification of the job, computed from the weights before training.
        state: the state to restore and save.
        world: the processes of the job.
        devices: the virtual devices of the job.
        sharded: whether the model is sharded, so that all processes restore and save its tensors together.

    Raises:
        UserError: the checkpoint belongs to another request or version.
    """
    started = time.monotonic()
    # Whether the main process saves checkpoints; the others are told only if they take part.
    saves = world.broadcast(found.store is not None) if sharded else found.store is not None
    if found.store is None:
        _resume_as_main(state, world)
        saver: Checkpoints = SavedByMain(world.any) if saves else NoCheckpoints()
        yield JobCheckpoints(saver, found.seconds + time.monotonic() - started, lambda: (0.0, 0.0))
        return
    specification = compute_specification()
    if found.checkpoint is None:
        world.broadcast(None)
    elif sharded:
        announced = without_tensor_values(found.checkpoint.parts)
        resume_from(found.checkpoint, specification, state, lambda: world.broadcast(announced))
    else:
        resume_from(found.checkpoint, specification, state)
        world.broadcast(found.checkpoint.parts)
    load_seconds = found.seconds + time.monotonic() - started
    with BackgroundWriter(found.store) as writer:
        cadence = Cadence(spec.interval_steps, spec.interval_seconds)
        agree = world.any if sharded else bool
        main_saver = Checkpointing(writer, specification, cadence, devices=devices, agree=agree)
        if found.checkpoint is not None:
            main_saver.resumed(state)
        yield JobCheckpoints(main_saver, load_seconds, lambda: (main_saver.stalled, writer.seconds))


def _resume_as_main(state: TrainingState, world: World) -> None:
    """Restore the state that the main process sends, if it resumes from a checkpoint.

    Raises:
        ProcessLostError: the main process could not restore it.
    """
    parts: Mapping[str, Any] | None = world.broadcast(None)
    if parts is None:
        return
    try:
        state.load(parts)
    except ValueError as error:
        # Its cause is in the main process, which checks the tensors of a sharded model for all.
        raise ProcessLostError(f"Another process of the job could not load the checkpoint: {error}") from error


def without_tensor_values(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the tensors of sharded parts by tensors on the meta device, which all but the main process hold."""
    replaced = {
        name: _on_meta_device(parts[name]) for name in ("weights", "optimizer", "average", "best") if name in parts
    }
    return {**parts, **replaced}


def _on_meta_device(value: Any) -> Any:  # noqa: ANN401 - nested states
    if isinstance(value, Tensor):
        return value.to("meta")
    return {key: _on_meta_device(item) for key, item in value.items()} if isinstance(value, Mapping) else value


_ADDED: Mapping[str, object] = {
    "rho": None,
    "initial_accumulator_value": 0.0,
    "warmup_steps": None,
    "max_steps": None,
}
"""Hyperparameters that checkpoints of earlier versions lack, with the default, which is left out."""


def build_specification(  # noqa: PLR0913  # the last three by keyword
    spec: JobSpec,
    inputs: Inputs,
    backbone: Backbone,
    plan: Plan,
    numerics: Numerics,
    *,
    best_metric: BestMetric,
    hosts: int = 1,
    solves_head: bool = False,
) -> Specification:
    """Everything that determines the bits of the result, except hardware: request, records, model, weights.

    Args:
        spec: the hyperparameters.
        inputs: the records.
        backbone: the model with its weights before training.
        plan: trainable layers.
        numerics: device and precision.
        best_metric: determines the best epoch.
        hosts: number of hosts that have their own training records; 1 if they all have the same.
        solves_head: whether the head is solved.
    """
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
    if spec.halvings:
        fields["batch_size"] = spec.optimization.batch_size * 2**spec.halvings
        fields["gradient_accumulation_steps"] = spec.optimization.gradient_accumulation_steps // 2**spec.halvings
        fields[HALVINGS] = spec.halvings
    # Without those that are off: checkpoints of earlier versions lack them.
    fields |= spec.recipes.model_dump(exclude_defaults=True)
    # Left out if it is the one of earlier versions, whose checkpoints lack the field.
    fields = {name: value for name, value in fields.items() if name not in _ADDED or value != _ADDED[name]}
    fields.pop("best_metric")
    fields.pop("dialect")  # its defaults are among the other hyperparameters
    earlier = "micro_f1" if inputs.labels.multi_label else "accuracy"
    if best_metric.name != earlier or not best_metric.exports:
        fields["best_metric"] = best_metric.name if best_metric.exports else "none"
    if hosts > 1:
        fields["hosts with own records"] = hosts
    if solves_head:
        fields["head_solver"] = "lbfgs"
    if fields.pop("max_minutes") is not None:
        fields["max_minutes"] = spec.run.max_minutes
    if spec.strategy.name == "auto":
        # The last epochs are averaged, and averages are tried after them: their number must not change.
        fields["epochs of strategy=auto"] = spec.optimization.epochs
    return Specification.of(fields)


def _digest_of_records(part: Subset, task: TaskName) -> str:
    """Digest of keys and labels, and of texts, which are in memory; images are identified by name only."""
    digest = hashlib.blake2b(digest_size=16)
    readable = readable_records(part.reader)
    for index in part.indices:
        content = part.reader.read(index).content if task == "text-classification" and index in readable else ""
        digest.update(repr((part.reader.key(index), part.reader.labels(index), content)).encode())
    return digest.hexdigest()


def resume_from(
    checkpoint: LoadedCheckpoint,
    ours: Specification,
    state: TrainingState,
    announce: Callable[[], object] = lambda: None,
) -> None:
    """Restore the state of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        ours: specification of this job.
        state: the state to restore.
        announce: called before, once it is known that the checkpoint belongs to this request.

    Raises:
        UserError: the checkpoint belongs to another request or version.
    """
    _check_specification(checkpoint, ours)
    announce()
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
