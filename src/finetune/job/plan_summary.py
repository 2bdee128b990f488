"""The plan of a job, logged before the first step: data, model, layer groups, steps and caching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.config.unused import UNUSED_IN_JOB, JobFacts, unused_hyperparameter_notes, unused_hyperparameters
from finetune.data.loading.batches import Batches
from finetune.data.transforms.base import ImageTransform
from finetune.distributed.virtual_devices import BATCH_NORM_MINIMUM
from finetune.features.plan import CachePlan
from finetune.job.choices.best_metric import choose_best_metric
from finetune.job.choices.recipes import recipe_lines
from finetune.job.data.inputs import Inputs, class_counts
from finetune.job.data.loaders import Loaders
from finetune.job.prepare import PreparedJob
from finetune.messages import Lines, one_line
from finetune.models.backbone import Backbone
from finetune.runtime.device import device_lines
from finetune.strategies.plan import Plan
from finetune.training.trainer import steps_per_epoch

MAX_SHOWN_CLASSES = 12


def describe_plan(job: PreparedJob) -> Lines:
    """Describe the plan in several lines, for the log."""
    records = record_counts(job.inputs)
    dialect = job.spec.dialect
    lines = [
        *([f"dialect   {dialect.summary}"] if dialect else []),
        f"task      {job.inputs.task.description(job.inputs.task_name)}",
        f"records   {', '.join(_record_count(part, count) for part, count in records.items())}",
        *_host_lines(job),
        *class_lines(_class_counts(job.inputs)),
        f"model     {job.backbone.name}, {job.backbone.expects.describe()}",
        f"weights   {job.backbone.weights.summary}",
        *_strategy_lines(job),
        *_group_lines(group_summaries(job.backbone, job.plan, solves_head=job.head_solver.solves)),
        *_run_lines(job),
        *([] if job.head_solver.solves else recipe_lines(job.spec, job.cache_plan)),
        *_best_epoch_lines(job),
        *_checkpoint_lines(job),
        *feature_lines(
            job.cache_plan,
            len(records),
            counted=records.get("train") is not None,
            solves_head=job.head_solver.solves or job.auto is not None,
        ),
        *image_lines(job.cache_plan, job.loaders),
        *(f"note      {note}" for note in unused_notes(job)),
    ]
    return Lines("\n".join(["Plan", *(f"  {one_line(line)}" for line in lines)]))


def _strategy_lines(job: PreparedJob) -> list[str]:
    """The strategy, the reason for it unless the user set it, and the table of `auto`."""
    name, reason = job.spec.strategy.name, job.spec.strategy_reason
    lines = [f"strategy  {name}" + (f": {reason}" if reason else "")] if reason or job.auto is not None else []
    return lines + [f"          {line}" for line in (job.auto.describe() if job.auto is not None else [])]


def _host_lines(job: PreparedJob) -> list[str]:
    """The channels whose objects are distributed over the hosts."""
    sharded = job.request.sharded_purposes()
    if not sharded:
        return []
    return [
        f"hosts     {job.world.hosts}, each with its own records of {', '.join(sorted(sharded))} (ShardedByS3Key); the"
        " result depends on their number"
    ]


def record_counts(inputs: Inputs) -> dict[str, int | None]:
    """Number of records of every part; `None` for a stream that was not counted."""
    counts: dict[str, int | None] = {name: len(part.indices) for name, part in inputs.parts().items()}
    return counts | {name: stream.count for name, stream in inputs.streams.items()}


def _record_count(part: str, count: int | None) -> str:
    return f"{part} unknown (streamed)" if count is None else f"{part} {count:,}"


def _class_counts(inputs: Inputs) -> dict[str, int]:
    """Number of records of every class; all 0 if they were not counted."""
    stream = inputs.streams.get("train")
    if stream is not None:
        return dict(zip(inputs.labels.names, stream.class_counts or (0,) * len(inputs.labels), strict=True))
    part = inputs.train or inputs.validation or inputs.test
    return class_counts(part, inputs.labels) if part else dict.fromkeys(inputs.labels.names, 0)


def class_lines(counts: Mapping[str, int]) -> list[str]:
    """List the classes with their numbers of records, and warn about imbalance."""
    is_counted = any(counts.values())
    shown = [f"{name} {count:,}" if is_counted else name for name, count in [*counts.items()][:MAX_SHOWN_CLASSES]]
    more = f", and {len(counts) - MAX_SHOWN_CLASSES} more" if len(counts) > MAX_SHOWN_CLASSES else ""
    lines = [f"classes   {len(counts)}: {', '.join(shown)}{more}"]
    by_size = sorted(counts.items(), key=lambda item: -item[1])
    (largest, most), (smallest, fewest) = by_size[0], by_size[-1]
    if most >= 5 * max(1, fewest):
        ratio = most / max(1, fewest)
        lines.append(f"balance   {largest!r} has {ratio:.0f} times as many records as {smallest!r}: see class_weights")
    return lines


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Row of the layer group table: parameters, peak learning rate, and first epoch (from 0) in which it is trained.

    A solved head has an epoch, but no learning rate.
    """

    name: str
    parameters: int
    rate: float | None
    first_epoch: int | None


def group_summaries(backbone: Backbone, plan: Plan, *, solves_head: bool = False) -> list[GroupSummary]:
    """Size, learning rate and first epoch of every layer group."""
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    rates = {} if solves_head else plan.learning_rates
    first = {name: phase.first_epoch for phase in reversed(plan.phases) for name in phase.trainable}
    return [
        GroupSummary(g.name, sum(sizes[n] for n in g.parameters), rates.get(g.name), first.get(g.name))
        for g in backbone.layer_groups()
    ]


def _group_lines(groups: list[GroupSummary]) -> list[str]:
    trainable = sum(group.parameters for group in groups if group.first_epoch is not None)
    total = sum(group.parameters for group in groups)
    lines = [f"trainable {trainable:,} of {total:,} parameters ({trainable / max(1, total):.1%})"]
    width = max(len(group.name) for group in groups)
    for group in groups:
        status = "frozen" if group.first_epoch is None else "last layer solved"
        if group.rate is not None and group.first_epoch is not None:
            status = f"learning rate {group.rate:.9f}".rstrip("0")
            status += f" from epoch {group.first_epoch + 1}" if group.first_epoch else ""
        lines.append(f"  {group.name:<{width}}  {group.parameters:>12,}  {status}")
    return lines


def _run_lines(job: PreparedJob) -> list[str]:
    spec, train = job.spec, job.loaders.train
    arithmetic = job.numerics.name + (", compiled" if spec.run.compile else "")
    device = [
        *device_lines(job.numerics.device, arithmetic, job.world.local_size),
        *process_lines(job),
        *memory_lines(job),
    ]
    if train is None or not spec.strategy.trains:
        return [*device, "steps     none: the model is evaluated without training"]
    if job.head_solver.solves:
        return [*device, f"head      {job.head_solver.description}"]
    head = [f"head      {job.head_solver.description}"] if job.head_solver.description else []
    optimization = spec.optimization
    per_epoch = steps_per_epoch(train.batches_per_epoch or 0, optimization.gradient_accumulation_steps)
    batch = f"{optimization.batch_size}"
    if optimization.gradient_accumulation_steps > 1:
        batch += f" x {optimization.gradient_accumulation_steps}"
    epochs = optimization.epochs if job.auto is None else job.auto.optimization.epochs
    steps = optimization.max_steps or epochs * per_epoch
    total = f"{steps:,}: {epochs} epochs of {per_epoch:,}"
    if job.auto is not None:
        total = f"up to {total} after the head is solved"
    if not per_epoch:
        total = f"unknown: {optimization.epochs} epochs of a stream"
    return [
        *device,
        *head,
        f"steps     {total}, {batch} records each; {optimization.optimizer}, {optimization.lr_schedule} schedule",
    ]


def process_lines(job: PreparedJob) -> list[str]:
    """Describe the processes of the job and the shards of a batch, if there are several of either."""
    world, devices = job.world, job.devices
    if world.size == 1 and devices.count == 1:
        return []
    line = f"processes {world.size}"
    if world.size > world.local_size:
        line += f", {world.local_size} on each host"
    line += f", {job.exchange}" if job.exchange else ""
    if not job.spec.strategy.trains:
        return [line]
    if job.input_provider.always_trains_replicated:
        result = "each trains the head, with the result of a single device"
        if job.head_solver.solves:
            result = "the first one solves the head"
        return [f"{line}; they compute the frozen layers together, and {result}"] if world.size > 1 else []
    size = job.spec.optimization.batch_size
    line += f"; every batch of {size} is divided into {devices.count} shards"
    lines = [f"{line}, which are summed in a fixed order: the result depends on virtual_devices, not on processes"]
    if size < BATCH_NORM_MINIMUM * devices.count:
        lines.append(
            f"          a shard has {size // devices.count} to {-(-size // devices.count)} records, which use a device"
            f" poorly: batch_size={BATCH_NORM_MINIMUM * devices.count} or more is better"
        )
    if job.idle_processes:
        lines.append(
            f"          {job.idle_processes} of {world.size + job.idle_processes} processes have no shard and end now:"
            f" {_reason_for_idle_processes(job)}"
        )
    return lines


def memory_lines(job: PreparedJob) -> list[str]:
    """Describe whether the model is sharded and activations are checkpointed, and why."""
    memory = job.memory
    is_automatic = job.spec.distributed.sharding == "auto"
    if not memory.reason or (is_automatic and job.world.size == 1 and job.numerics.device.type == "cpu"):
        return []
    checkpointing = ", activations of each layer group are computed again in the backward pass"
    details = checkpointing if memory.checkpoints_activations else ""
    if not memory.is_sharded:
        return [f"sharding  none{details}: {memory.reason}"]
    return [
        f"sharding  parameters, gradients and optimizer state of trainable layers are divided among {job.world.size}"
        f" processes{details}: {memory.reason}",
        "          the rules about weights, gradients and activations, and SageMaker Debugger's hook, are off",
    ]


def _reason_for_idle_processes(job: PreparedJob) -> str:
    if job.spec.distributed.virtual_devices is not None:
        return f"virtual_devices={job.spec.distributed.virtual_devices}"
    if job.resumes:
        return f"the checkpoint was written with {job.devices.count} virtual devices"
    processes = job.world.size + job.idle_processes
    minimum = BATCH_NORM_MINIMUM if job.devices.minimum > 1 else 1
    return (
        f"shards of fewer than {minimum} records would train batch normalization poorly; batch_size="
        f"{minimum * processes} uses all of them"
        if minimum > 1
        else f"batch_size={job.spec.optimization.batch_size} has fewer records"
    )


def _best_epoch_lines(job: PreparedJob) -> list[str]:
    """The epoch that is exported, and when training stops early."""
    spec, inputs = job.spec, job.inputs
    if job.loaders.train is None or not spec.strategy.trains:
        return []
    if inputs.validation is None and "validation" not in inputs.streams:
        return [
            "export    the last epoch: there are no validation records to compare epochs (channel 'validation',"
            " validation_fraction)"
        ]
    metric = choose_best_metric(spec, inputs)
    if not metric.exports:
        return ["export    the last epoch, as best_metric=none, whatever its validation metrics"]
    line = f"export    the epoch with the {'lowest' if metric.name == 'loss' else 'highest'} validation {metric.label}"
    line += f" ({metric.reason}; see best_metric)" if metric.reason else ""
    if job.auto is not None:
        line += "; also the solved head and averages of weights, the head unless others are clearly better"
    patience = spec.optimization.early_stopping_patience
    if patience is not None:
        line += f"; training stops after {patience} epochs without improvement"
    if spec.run.max_minutes is not None:
        line += f"; no epoch begins that would end after {spec.run.max_minutes:g} minutes (max_minutes)"
    return [line]


def _checkpoint_lines(job: PreparedJob) -> list[str]:
    spec, folder = job.spec.checkpoint, job.request.checkpoint_folder()
    if job.loaders.train is None or not job.spec.strategy.trains:
        return []
    if folder is None:
        return [
            "resume    no checkpoint folder: after an interruption, for example on spot capacity, the job starts from"
            " the beginning; set checkpoint_s3_uri of the estimator"
        ]
    times = [f"every {spec.interval_steps} steps"] if spec.interval_steps is not None else []
    times += [f"at most every {spec.interval_seconds:g} s"] if spec.interval_seconds is not None else []
    times += ["after epochs that take long enough", "on SIGTERM and at the end"]
    copied = f", copied to {spec.s3_uri}" if spec.s3_uri is not None else ""
    return [f"resume    checkpoints in {folder}{copied}: {', '.join(times)}; resume={spec.resume}"]


def feature_lines(cache_plan: CachePlan, parts: int, *, counted: bool, solves_head: bool = False) -> list[str]:
    """Describe the caching of frozen layer outputs: passes saved and augmentation lost.

    Args:
        cache_plan: caching decisions.
        parts: number of parts among train, validation and test.
        counted: whether the number of training records is known.
        solves_head: whether the head is solved on the outputs of one pass.
    """
    phases = [phase for phase in cache_plan.plan.phases if cache_plan.split_index(phase)]
    if not phases or not parts:
        return []
    last_group = cache_plan.plan.groups[cache_plan.split_index(phases[0]) - 1]
    outputs = f"features  outputs of frozen layers (up to {last_group})"
    if solves_head:
        effect = ", without augmentation" if cache_plan.is_augmented else ""
        return [f"{outputs} are computed once{effect}"]
    if not counted:
        return [f"{outputs} are computed in every epoch: the number of records is unknown (num_training_samples)"]
    if not any(cache_plan.reuses_features(phase) for phase in phases):
        return [f"{outputs} are computed in every epoch: none is used twice"]
    epochs, views = sum(cache_plan.epochs(phase) for phase in phases), cache_plan.views
    count = sum(min(views, cache_plan.epochs(phase)) for phase in phases)
    passes = "1 pass" if count == 1 else f"{count} passes"
    effect = "without augmentation" if views == 1 else f"{views} augmented views of each image instead of {epochs}"
    if not cache_plan.is_augmented:
        effect = "results do not change"
    return [
        f"{outputs} are cached: {passes} through them instead of {epochs}; {effect} (augmentation_views,"
        " feature_cache=off)"
    ]


def image_lines(cache_plan: CachePlan, loaders: Loaders) -> list[str]:
    """Describe the caching of decoded images that are used in several passes."""
    passes, train = cache_plan.passes, loaders.train
    if max(passes.plain, passes.augmented) < 2 or not isinstance(train, Batches):
        return []
    transform = train.dataset.transform
    if not isinstance(transform, ImageTransform):
        return []
    total = passes.plain + passes.augmented
    if cache_plan.spec.features.size_gb == 0:
        return [f"images    are decoded in each of {total} passes: cache_size_gb is 0"]
    plain = transform.example_bytes if passes.plain > 1 else 0
    varied = transform.augmentation_source_bytes if passes.augmented > 1 else 0
    content = "resized, before augmentation" if varied else "resized and cropped"
    if passes.plain and passes.augmented:
        content += ", separately with and without augmentation"
    times, size = "twice" if passes.plain and passes.augmented else "once", max(plain, varied)
    return [
        f"images    are decoded {times} instead of in each of {total} passes, and cached {content}: at most about"
        f" {size / 1e3:,.0f} kB each, {size * len(train.dataset) / 1e9:,.2f} GB for training, within cache_size_gb;"
        " results do not change"
    ]


def unused_notes(job: PreparedJob) -> list[str]:
    """One sentence for each reason why a hyperparameter set by the user has no effect, given channels and plan."""
    cache_plan, inputs = job.cache_plan, job.inputs
    phases = [phase for phase in job.plan.phases if phase.trainable]
    parts = {"train": inputs.train, "validation": inputs.validation, "test": inputs.test}
    present = {name for name, part in parts.items() if part is not None} | inputs.streams.keys()
    split_off = {"validation"} if inputs.split else set()
    facts = JobFacts(
        job.spec,
        inputs.task_name,
        channels=frozenset(present - split_off),
        piped=frozenset(inputs.streams.keys() - split_off),
        freezes=any(map(cache_plan.split_index, phases)),
        varies=any(map(cache_plan.augments, phases)),
        keeps_checkpoints=job.request.checkpoint_folder() is not None,
        validates="validation" in present,
    )
    return unused_hyperparameter_notes(unused_hyperparameters(UNUSED_IN_JOB, facts, job.spec.set_by_user))
