"""The plan of a job, logged before the first step: data, model, layer groups, steps and caching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config.hyperparameters import JobSpec
from finetune.config.unused import UNUSED_IN_JOB, JobFacts, unused_hyperparameter_notes, unused_hyperparameters
from finetune.data.transforms.augmentation import bytes_before_augmenting
from finetune.features.plan import CachePlan
from finetune.job.inputs import Inputs, class_counts
from finetune.job.loaders import Loaders, image_geometry
from finetune.job.request import Request
from finetune.messages import Lines, one_line
from finetune.models.backbone import Backbone, ImageInput
from finetune.runtime.device import device_lines
from finetune.runtime.precision import Numerics
from finetune.strategies.plan import Plan
from finetune.training.trainer import steps_per_epoch

_SHOWN_CLASSES = 12


def describe_plan(
    inputs: Inputs, backbone: Backbone, plan: Plan, loaders: Loaders, request: Request, numerics: Numerics
) -> Lines:
    """Describe the plan before the first step."""
    spec = request.spec
    records: dict[str, int | None] = {name: len(part.indices) for name, part in inputs.parts().items()}
    records |= {name: part.count for name, part in inputs.streams.items()}
    classes = _classes(inputs)
    data = DataSummary(
        inputs.task + (", several labels per record" if inputs.labels.multi_label else ""), records, classes
    )
    network = f"{backbone.name}, {expected_input(backbone)}"
    frozen = CachePlan(backbone, plan, spec, numerics)
    lines = [
        *_run_lines(loaders, spec, numerics),
        *_checkpoint_lines(request, loaders),
        *feature_lines(frozen, len(records), counted=records.get("train") is not None),
        *picture_lines(frozen, inputs),
        *(f"remark    {remark}" for remark in idle_remarks(request, inputs, frozen)),
    ]
    return plan_text(data, group_summaries(backbone, plan), RunSummary(network, backbone.weights.words, lines))


def _classes(inputs: Inputs) -> dict[str, int]:
    """Number of records of every class; all 0 if they were not counted."""
    stream = inputs.streams.get("train")
    if stream is not None:
        return dict(zip(inputs.labels.names, stream.class_counts or (0,) * len(inputs.labels), strict=True))
    counted = inputs.train or inputs.validation or inputs.test
    return class_counts(counted, inputs.labels) if counted else dict.fromkeys(inputs.labels.names, 0)


def expected_input(backbone: Backbone) -> str:
    """Description of the model's input."""
    expects = backbone.expects
    if isinstance(expects, ImageInput):
        return f"pictures of {expects.size} x {expects.size}"
    return f"texts of up to {expects.max_length} tokens"


def group_summaries(backbone: Backbone, plan: Plan) -> list[GroupSummary]:
    """Size, learning rate and first epoch of every layer group."""
    sizes = {name: parameter.numel() for name, parameter in backbone.module.named_parameters()}
    first = {name: phase.first_epoch for phase in reversed(plan.phases) for name in phase.trainable}
    return [
        GroupSummary(g.name, sum(sizes[n] for n in g.parameters), plan.rates.get(g.name), first.get(g.name))
        for g in backbone.layer_groups()
    ]


def _run_lines(loaders: Loaders, spec: JobSpec, numerics: Numerics) -> list[str]:
    arithmetic = numerics.name + (", compiled" if spec.run.compile else "")
    device = device_lines(numerics.device, arithmetic)
    if loaders.train is None or spec.strategy.name == "evaluate":
        return [*device, "steps     none: the network is evaluated as it is"]
    optimisation = spec.optimisation
    per_epoch = steps_per_epoch(loaders.train.batches_per_epoch or 0, optimisation.gradient_accumulation_steps)
    batch = f"{optimisation.batch_size}"
    if optimisation.gradient_accumulation_steps > 1:
        batch += f" x {optimisation.gradient_accumulation_steps}"
    total = f"{optimisation.epochs * per_epoch:,}: {optimisation.epochs} epochs of {per_epoch:,}"
    if not per_epoch:
        total = f"as many as {optimisation.epochs} epochs of the stream have"
    return [
        *device,
        f"steps     {total}, {batch} records each; {optimisation.optimizer}, {optimisation.lr_schedule} schedule",
    ]


def _checkpoint_lines(request: Request, loaders: Loaders) -> list[str]:
    spec, folder = request.spec.checkpoint, request.checkpoint_folder()
    if loaders.train is None or request.spec.strategy.name == "evaluate":
        return []
    if folder is None:
        return [
            "resuming  checkpoints: none, since the job has no folder for them: after an interruption, as of spot"
            " capacity, it starts from the beginning; give the estimator a checkpoint_s3_uri"
        ]
    often = [f"every {spec.interval_steps} steps"] if spec.interval_steps is not None else []
    often += [f"every {spec.interval_seconds:g} s at most"] if spec.interval_seconds is not None else []
    copied = f", copied to {spec.s3_uri}" if spec.s3_uri is not None else ""
    when = ", ".join([*often, "after epochs that are long enough", "on SIGTERM and at the end"])
    return [f"resuming  checkpoints in {folder}{copied}: {when}; resume={spec.resume}"]


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Summary of the data in the channels.

    Attributes:
        task: task and its source.
        records: number of records by purpose, such as `train`.
        classes: number of training records of every class, in the order of the labels.
    """

    task: str
    records: Mapping[str, int | None]
    classes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Row of the layer group table: parameters, peak learning rate, and first epoch (from 0) in which it is trained."""

    name: str
    parameters: int
    rate: float | None
    first_epoch: int | None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Formatted lines about how the job will run."""

    network: str
    weights: str
    lines: Sequence[str]


def plan_text(data: DataSummary, groups: Sequence[GroupSummary], run: RunSummary) -> Lines:
    """The whole plan as lines of text, for the log."""
    learning = sum(group.parameters for group in groups if group.rate is not None)
    total = sum(group.parameters for group in groups)
    lines = [
        f"task      {data.task}",
        "records   " + ", ".join(_counted(name, count) for name, count in data.records.items()),
        *_class_lines(data.classes),
        f"network   {run.network}",
        f"weights   {run.weights}",
        f"learning  {learning:,} of {total:,} parameters ({learning / max(1, total):.1%})",
        *_group_lines(groups),
        *run.lines,
    ]
    return Lines("\n".join(["Plan", *(f"  {one_line(line)}" for line in lines)]))


def _counted(name: str, count: int | None) -> str:
    return f"{name} as many as its pipe brings" if count is None else f"{name} {count:,}"


def _class_lines(classes: Mapping[str, int]) -> list[str]:
    largest = sorted(classes.items(), key=lambda item: -item[1])
    known = any(classes.values())
    few = list(classes.items())[:_SHOWN_CLASSES]
    shown = ", ".join(f"{name} {count:,}" if known else name for name, count in few)
    more = f", and {len(classes) - _SHOWN_CLASSES} more" if len(classes) > _SHOWN_CLASSES else ""
    lines = [f"classes   {len(classes)}: {shown}{more}"]
    (most, many), (least, fewest) = largest[0], largest[-1]
    if many >= 5 * max(1, fewest):
        lines.append(
            f"balance   {most!r} has {many / max(1, fewest):.0f} times the records of {least!r}: see class_weights"
        )
    return lines


def _group_lines(groups: Sequence[GroupSummary]) -> list[str]:
    width = max(len(group.name) for group in groups)
    lines = []
    for group in groups:
        if group.rate is None or group.first_epoch is None:
            what = "frozen"
        else:
            since = f" from epoch {group.first_epoch + 1}" if group.first_epoch else ""
            what = f"learns at {group.rate:.9f}".rstrip("0") + since
        lines.append(f"  {group.name:<{width}}  {group.parameters:>12,}  {what}")
    return lines


def feature_lines(frozen: CachePlan, parts: int, *, counted: bool) -> list[str]:
    """Describe the caching of frozen layer outputs: passes saved and augmentation lost.

    Args:
        frozen: caching decisions.
        parts: number of parts among train, validation and test.
        counted: whether the number of training records is known.
    """
    phases = [phase for phase in frozen.plan.phases if frozen.split_index(phase)]
    if not phases or not parts:
        return []
    last = frozen.plan.groups[frozen.split_index(phases[0]) - 1]
    if not counted:
        return [
            f"features  outputs of frozen layers (up to {last}) are computed in every epoch: nobody says how many"
            " records there are (num_training_samples)"
        ]
    if not any(frozen.keeps(phase) for phase in phases):
        return [
            f"features  outputs of frozen layers (up to {last}) are computed in every epoch: none is asked for again"
        ]
    epochs, views = sum(frozen.epochs(phase) for phase in phases), frozen.views
    count = sum(min(views, frozen.epochs(phase)) for phase in phases)
    passes = "1 pass" if count == 1 else f"{count} passes"
    given_up = "without augmentation" if views == 1 else f"{views} augmentations of each picture instead of {epochs}"
    if frozen.spec.data.augmentation == "none" or not isinstance(frozen.backbone.expects, ImageInput):
        given_up = "nothing is given up"
    return [
        f"features  outputs of frozen layers (up to {last}) are kept: {passes} through them instead of {epochs};"
        f" {given_up} (augmentation_views, feature_cache=off)"
    ]


def picture_lines(frozen: CachePlan, inputs: Inputs) -> list[str]:
    """Describe the caching of decoded images that are used in several passes."""
    expects, train, passes = frozen.backbone.expects, inputs.train, frozen.passes
    if max(passes.plain, passes.varied) < 2 or not isinstance(expects, ImageInput) or train is None:
        return []
    together = passes.plain + passes.varied
    if frozen.spec.features.size_gb == 0:
        return [f"pictures  are decoded in each of {together} passes over them: cache_size_gb is 0"]
    geometry = image_geometry(expects)
    plain = 3 * expects.size**2 if passes.plain > 1 else 0
    varied = bytes_before_augmenting(geometry) if passes.varied > 1 else 0
    kept = "resized; augmentation starts from them" if varied else "resized and cropped"
    if passes.plain and passes.varied:
        kept += ", those without augmentation apart"
    times, each = "twice" if passes.plain and passes.varied else "once", max(plain, varied)
    size = f"at most about {each / 1e3:,.0f} kB each, {each * len(train.indices) / 1e9:,.2f} GB for training"
    return [
        f"pictures  are decoded {times} instead of in each of {together} passes over them, and kept {kept}: {size},"
        " as far as there is room (cache_size_gb); nothing is given up"
    ]


def idle_remarks(request: Request, inputs: Inputs, frozen: CachePlan) -> list[str]:
    """One sentence for each reason why a hyperparameter set by the user has no effect."""
    spec, phases = frozen.spec, [phase for phase in frozen.plan.phases if phase.trainable]
    named = {"train": inputs.train, "validation": inputs.validation, "test": inputs.test}
    there = {name for name, part in named.items() if part is not None} | inputs.streams.keys()
    facts = JobFacts(
        spec,
        inputs.task,
        channels=frozenset(there - ({"validation"} if inputs.split else set())),
        piped=frozenset(inputs.streams.keys() - ({"validation"} if inputs.split else set())),
        freezes=any(map(frozen.split_index, phases)),
        varies=any(map(frozen.varies, phases)),
        keeps_checkpoints=request.checkpoint_folder() is not None,
    )
    return unused_hyperparameter_notes(unused_hyperparameters(UNUSED_IN_JOB, facts, spec.given))
