"""Prepares a job up to the first step: opens the data, loads the model, and makes the plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from finetune.config.hyperparameters import JobSpec, TaskName
from finetune.data.labels import LabelMap
from finetune.data.readers.hosts_reader import HostsReader
from finetune.data.readers.image_survey import survey_images
from finetune.distributed.sharding.memory_plan import NO_SHARDING, MemoryChoice
from finetune.distributed.virtual_devices import ONE_DEVICE, VirtualDevices
from finetune.distributed.world import World
from finetune.errors import DataError, UserError
from finetune.evaluation.forgetting import SourceModel
from finetune.evaluation.predict import InferenceContext, Predictions, ShardedPasses, predict
from finetune.features.phase_inputs import CachedInputProvider
from finetune.features.plan import CachePlan
from finetune.features.reuse.warm_pool import WarmPool
from finetune.job.choices.auto_strategy import (
    choose_auto_strategy,
    obstacle_to_auto,
    with_solved_epoch,
    without_auto,
)
from finetune.job.choices.head_solver import (
    TRAINED_WITH_OTHER_LAYERS,
    HeadSolver,
    choose_head_solver,
    find_obstacle,
    head_inputs,
)
from finetune.job.choices.recipes import check_recipes, use_drop_path
from finetune.job.data.inputs import (
    Inputs,
    announced_classes,
    check_metrics_are_defined,
    check_target,
    file_channels,
    open_readers,
    read_inputs,
)
from finetune.job.data.loaders import Loaders, build_loaders
from finetune.job.data.streams import share_streams, task_of
from finetune.job.request import Request
from finetune.models.backbone import Backbone
from finetune.models.load import (
    ModelRequest,
    Source,
    load_backbone,
    load_without_logging,
    locate_source,
    source_classes,
)
from finetune.models.preprocessing import has_padding_only_columns
from finetune.runtime.device import choose_device, use_deterministic_kernels
from finetune.runtime.memory import keep_freed_memory
from finetune.runtime.precision import Numerics, choose_numerics, supported_numerics
from finetune.runtime.threads import limit_threads
from finetune.sagemaker.interruption import Interruption
from finetune.strategies.auto import AutoStrategy
from finetune.strategies.plan import Plan
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.training.compile import check_compiler
from finetune.training.inputs import PhaseInputs
from finetune.training.sharded import ShardedTraining
from finetune.training.trainer import steps_per_epoch


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that is ready to train, with all data and weights checked and loaded.

    Attributes:
        world: the processes of the job, and the place of this one among them.
        devices: the virtual devices, at least as many as processes if anything is trained.
        idle_processes: number of processes that have ended, as there are fewer virtual devices.
        resumes: whether the job resumes from a checkpoint.
        head_solver: whether the head is solved instead of trained in epochs.
        auto: decides on the fine-tuning after the head is solved, with strategy `auto`; else `None`.
        exchange: speed of exchanges between the processes, for the plan; empty for a single process.
        build_again: loads the same model again, on the CPU, with the weights that it had before training.
        memory: whether the model is sharded and activations are checkpointed, with the reason.
        sharded: the model, once its trainable layers are sharded; else `None`.
    """

    request: Request
    inputs: Inputs
    backbone: Backbone
    plan: Plan
    cache_plan: CachePlan
    loaders: Loaders
    input_provider: CachedInputProvider
    numerics: Numerics
    interruption: Interruption
    source_model: SourceModel
    build_again: Callable[[], Backbone]
    world: World
    devices: VirtualDevices = ONE_DEVICE
    idle_processes: int = 0
    resumes: bool = False
    head_solver: HeadSolver = TRAINED_WITH_OTHER_LAYERS
    auto: AutoStrategy | None = None
    exchange: str = ""
    memory: MemoryChoice = NO_SHARDING
    sharded: ShardedTraining | None = None

    @property
    def spec(self) -> JobSpec:
        """The checked hyperparameters."""
        return self.request.spec

    def predict(self, inputs: PhaseInputs) -> Predictions | None:
        """Predict with the current weights; `None` if the job was stopped before the end.

        All processes take part; the main process gets the result, the others the part that they computed.

        Raises:
            DataError: none of the records can be read.
        """
        passes: ShardedPasses | None = None
        if self.sharded is not None:
            example = self.sharded.features if inputs.takes_features else self.sharded.records
            passes = ShardedPasses(self.sharded.model.run, example)
        settings = InferenceContext(
            self.numerics.device, self.numerics.context, self.interruption.requested, self.world, passes
        )
        with limit_threads(single_threaded=inputs.single_threaded):
            predictions = predict(self.backbone, inputs.source, settings, self.inputs.task, inputs.forward)
        self.loaders.bad_records.share(self.world)
        if predictions is not None:
            self.loaders.compare_evaluated_streams(self.world)
        if self.world.is_main and predictions is not None and not len(predictions.positions):
            channel = inputs.source.channel
            listing = self.loaders.bad_records[channel].listing()
            key, reason = listing[0]
            raise DataError(
                f"channel {channel!r}: none of the {len(listing)} records to evaluate can be read: {key}"
                f" {reason}; replace them, or lower max_bad_records to fail at the first one"
            )
        return predictions


def prepare(request: Request, interruption: Interruption, scratch: Path, world: World) -> PreparedJob:
    """Read, check and load everything."""
    device = choose_device(request.files.resources.instance_type, world.local_rank)
    if request.spec.distributed.deterministic and device.type == "cuda":
        use_deterministic_kernels()
    numerics = choose_numerics(request.spec.run.precision, device)
    announced = announced_classes(request)
    if announced is not None:  # Readers need the names too: a class may be called None or NA.
        request = request.with_class_names(announced.names)
    spec = request.spec
    data = spec.data.model_copy(update={"task": task_of(request)})
    readers = open_readers(file_channels(request, scratch), data)
    task = next(iter(readers.values())).task if readers else data.task
    if task is None:
        raise DataError("There is no channel with records: give a channel 'train'.")
    check_compiler(spec, task, device)
    keep_freed_memory(equal_sizes=task == "image-classification")
    model_request, source = locate_model(request, task, scratch)
    evaluated = None
    if not spec.strategy.trains and (names := source_classes(model_request, source)):
        evaluated = LabelMap(names, spec.data.multi_label)
    inputs = read_inputs(request, readers, task, announced, evaluated, stopped=interruption.requested, world=world)
    check_target(inputs, spec.observe)
    check_metrics_are_defined(spec, inputs)
    depth = _sixteen_bit_depth(inputs, world)
    ordered = evaluated is None and announced is not None
    complete_request = replace(
        model_request, labels=inputs.labels.names, sixteen_bit_depth=depth, labels_ordered=ordered
    )
    backbone = load_backbone(complete_request, source)
    use_drop_path(spec, backbone)
    numerics = supported_numerics(
        numerics, backbone.module, spec.run.precision, lambda: has_padding_only_columns(backbone)
    )
    move_to_device(backbone, numerics)
    sharing = share_streams(inputs.streams, world, scratch)
    loaders = build_loaders(inputs, backbone, spec, device, sharing, world)
    if spec.optimization.max_steps is not None and loaders.train is not None:
        batches = None if "train" in inputs.streams else loaders.train.batches_per_epoch
        spec = _with_epochs_of_max_steps(spec, batches)

    def provide(cache_plan: CachePlan) -> CachedInputProvider:
        warm_pool = open_warm_pool(request, world)
        return CachedInputProvider(cache_plan, loaders, scratch, warm_pool, world, interruption.requested)

    planned = make_job_plan(spec, backbone, structure_of(backbone, task), inputs, numerics, provide)
    check_recipes(planned.spec, planned.cache_plan, piped="train" in inputs.streams)
    return PreparedJob(
        request=replace(request, spec=planned.spec),
        inputs=inputs,
        backbone=backbone,
        plan=planned.cache_plan.plan,
        cache_plan=planned.cache_plan,
        loaders=loaders,
        input_provider=planned.provider,
        numerics=numerics,
        interruption=interruption,
        source_model=SourceModel(model_request, source),
        build_again=partial(load_without_logging, complete_request, source),
        world=world,
        head_solver=planned.head_solver,
        auto=planned.auto,
    )


def _with_epochs_of_max_steps(spec: JobSpec, batches: int | None) -> JobSpec:
    """Replace `epochs` by the number in which `max_steps` are reached.

    Args:
        spec: hyperparameters, with `max_steps`.
        batches: batches per epoch; `None` in Pipe mode.

    Raises:
        UserError: the training channel is in Pipe mode.
    """
    if batches is None:
        raise UserError("max_steps is not supported in Pipe mode, whose epochs read the whole stream: set epochs.")
    optimization = spec.optimization
    per_epoch = steps_per_epoch(batches, optimization.gradient_accumulation_steps)
    epochs = math.ceil((optimization.max_steps or 0) / max(1, per_epoch))
    return replace(spec, optimization=optimization.model_copy(update={"epochs": epochs}))


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Trainable layers by phase, and the inputs of each phase.

    Attributes:
        spec: hyperparameters in effect.
        cache_plan: plan, and caching of its frozen layers.
        provider: inputs of its phases.
        head_solver: whether the head is solved instead of trained in epochs.
        auto: decides on the fine-tuning after the head is solved, with strategy `auto`.
    """

    spec: JobSpec
    cache_plan: CachePlan
    provider: CachedInputProvider
    head_solver: HeadSolver
    auto: AutoStrategy | None = None


def make_job_plan(
    spec: JobSpec,
    backbone: Backbone,
    model: ModelStructure,
    inputs: Inputs,
    numerics: Numerics,
    provide: Callable[[CachePlan], CachedInputProvider],
) -> JobPlan:
    """Make the plan; if the head cannot be solved, strategy `auto` is replaced."""
    if spec.strategy.name == "auto" and (obstacle := obstacle_to_auto(spec, backbone, inputs)):
        spec = without_auto(spec, obstacle)
    auto = choose_auto_strategy(spec, model, inputs)
    if auto is not None:
        planned = with_solved_epoch(spec, auto)
        cache_plan = CachePlan(backbone, auto.initial_plan, planned, numerics)
        provider, solved_inputs = provide(cache_plan), head_inputs(backbone)
        obstacle = find_obstacle(backbone, cache_plan, provider, solved_inputs, _training_records(inputs))
        if obstacle is None:
            return JobPlan(planned, cache_plan, provider, HeadSolver(False, "", solved_inputs), auto)
        spec = without_auto(spec, obstacle)
    cache_plan = CachePlan(backbone, make_plan(spec.strategy, spec.optimization, model), spec, numerics)
    provider = provide(cache_plan)
    solver = choose_head_solver(spec, backbone, cache_plan, provider, _training_records(inputs))
    return JobPlan(spec, cache_plan, provider, solver)


def _training_records(inputs: Inputs) -> int | None:
    """Number of training records; `None` if they are not counted."""
    stream = inputs.streams.get("train")
    return stream.count if stream is not None else len(inputs.train.indices) if inputs.train else 0


def structure_of(backbone: Backbone, task: TaskName) -> ModelStructure:
    """The layer groups of the model, as input of the strategies."""
    names = tuple(group.name for group in backbone.layer_groups())
    return ModelStructure(names, task, new_head=not backbone.weights.kept_head)


def open_warm_pool(request: Request, world: World) -> WarmPool:
    """Features cached by jobs on this machine, within the size limit for all caches; one process per host writes."""
    size_gb = request.spec.features.size_gb
    max_bytes = None if size_gb is None else int(size_gb * 10**9)
    return WarmPool(request.paths.warm_pool, max_bytes, read_only=world.local_rank > 0)


def locate_model(request: Request, task: TaskName, scratch: Path) -> tuple[ModelRequest, Source]:
    """The model request without the labels, which are not known yet, and the source of the weights."""
    spec = request.spec
    model_request = ModelRequest(
        spec=spec.model,
        task=task,
        labels=(),
        problem_type=spec.data.problem_type,
        pretrained=spec.strategy.uses_pretrained_weights,
        image_size=spec.data.image_size,
        max_length=spec.data.max_length,
        seed=spec.run.seed,
        model_channel=request.folders().get("model"),
        baked_weights=request.paths.baked_weights,
        scratch=scratch,
        trained=spec.strategy.trains,
    )
    return model_request, locate_source(model_request)


def _sixteen_bit_depth(inputs: Inputs, world: World) -> int | None:
    """Bits used by 16-bit grey images of the first File-mode channel, on any host; `None` if there are none."""
    part = next(iter(inputs.parts().values()), None)
    depth = survey_images(part.reader) if part is not None and inputs.task_name == "image-classification" else None
    if part is not None and isinstance(part.reader, HostsReader):
        return max((found for found in world.gather_from_hosts(depth) if found is not None), default=None)
    return depth


def move_to_device(backbone: Backbone, numerics: Numerics) -> None:
    """Move the model to its device, with channels-last memory format if it has convolutions."""
    has_convolutions = any(parameter.dim() == 4 for parameter in backbone.module.parameters())
    layout = torch.channels_last if has_convolutions else torch.preserve_format
    backbone.module.to(numerics.device, memory_format=layout)  # type: ignore[call-overload]  # not in torch's stub
