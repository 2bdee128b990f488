"""The job from start to end: read the request, open the data, load the model, plan, train, evaluate, export, check."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch

from finetune.checkpoint.manifest import Specification
from finetune.distributed.health_check import check_devices
from finetune.distributed.virtual_devices import ShardLimit, choose_virtual_devices
from finetune.distributed.world import World
from finetune.errors import DivergedError, JobStopped, UserError
from finetune.evaluation.drift import InitialWeights
from finetune.evaluation.predict import EvaluationResult
from finetune.job.choices.best_metric import choose_best_metric
from finetune.job.choices.memory import choose_memory, shard_model, use_activation_checkpointing, whole_model
from finetune.job.data.inputs import target_of
from finetune.job.device_errors import named_device_errors
from finetune.job.dialect_log import dialect_lines, log_final_metrics
from finetune.job.evaluate import Evaluation, decide_thresholds, evaluate_parts, measure_forgetting
from finetune.job.export_check import export_and_verify
from finetune.job.log_observer import LogObserver, SolvedHeadLogObserver
from finetune.job.out_of_memory import match_halvings, run_with_smaller_batches
from finetune.job.outputs import (
    build_report,
    exported_line,
    job_summary,
    metrics_of_best_epoch,
    write_bad_records,
    write_metrics,
    write_predictions,
    write_report,
)
from finetune.job.plan_summary import describe_plan
from finetune.job.prepare import PreparedJob, prepare
from finetune.job.request import Request
from finetune.job.resume import FoundCheckpoint, build_specification, find_checkpoint, open_checkpoints
from finetune.job.rules import build_rule_observer, build_setup, findings_about_evaluation
from finetune.messages import OWN_LOGGER
from finetune.monitoring.debugger import Debugger, create_debugger
from finetune.monitoring.json_numbers import finite
from finetune.monitoring.progress import choose_progress
from finetune.monitoring.score import BestMetric
from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.optional import optional
from finetune.sagemaker.failure import cause_of
from finetune.sagemaker.interruption import Interruption
from finetune.strategies.plan import Plan
from finetune.tasks.thresholds import ChosenThresholds
from finetune.training.build import build_state, build_training, trains_batch_norm_ever
from finetune.training.fit_auto import AutoObservers, fit_auto, start_averaging
from finetune.training.observers.base import Observers
from finetune.training.observers.rules import Findings, RuleObserver
from finetune.training.observers.tracking import DebuggedInputs, TrackingObserver
from finetune.training.optim import Schedule
from finetune.training.saved_state.run_history import RunHistory, RunHistoryFile
from finetune.training.saved_state.state import EpochMetrics, TrainingState
from finetune.training.sharded import ShardedTraining
from finetune.training.solve import fit_solved
from finetune.training.time_budget import TimeBudget
from finetune.training.trainer import Training, fit, restore_best

logger = logging.getLogger(__name__)

_NOTHING_TO_EXPORT = "Stopped before the first step: there is no model to export."


def run_job(request: Request, interruption: Interruption, world: World) -> None:
    """Run a job until it finishes or is stopped, with a smaller batch if the device runs out of memory.

    All processes train and evaluate; only the main process logs and writes outputs.

    Raises:
        UserError: the request or the data cannot be used as they are.
        PlatformError: the machine failed.
    """
    if not world.is_main:
        logging.getLogger(OWN_LOGGER).setLevel(logging.ERROR)
    run_with_smaller_batches(request, world, lambda attempt: run_once(attempt, interruption, world))


def run_once(request: Request, interruption: Interruption, world: World) -> None:
    """Run a job until it finishes, is stopped or runs out of memory.

    Raises:
        UserError: the request or the data cannot be used as they are.
        PlatformError: the machine failed.
        OutOfMemoryError: the device has too little memory.
        SmallerBatchNeededError: the checkpoint was written with a smaller batch.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch, named_device_errors():
        try:
            job = None
            # Of several processes, one that stopped alone would leave the others in a collective: they agree below.
            stopping = interruption.raising(JobStopped) if world.size == 1 else nullcontext()
            with suppress(JobStopped), stopping:
                job = prepare(request, interruption, Path(scratch), world)
            # SIGTERM may reach one process alone: all of them stop before they wait for each other in training.
            if world.any(interruption.requested()) or job is None:
                raise JobStopped
            run_prepared(job)
        except JobStopped:
            logger.info(_NOTHING_TO_EXPORT)


def run_prepared(job: PreparedJob) -> None:
    """Choose the processes that train, describe the plan, train, evaluate and export.

    Raises:
        UserError: the checkpoint belongs to another request.
        PlatformError: the machine failed.
        JobStopped: the job was stopped while it waited for a checkpoint.
    """
    if job.world.size > 1:
        job = replace(job, exchange=check_devices(job.world, job.numerics.device))
    if job.loaders.train is None or not job.spec.strategy.trains:
        logger.info("%s", describe_plan(job))
        evaluate_and_export(job, train(job, None))
        return
    found = find_checkpoint(job.request.checkpoint_folder(), job.spec.checkpoint, job.interruption, job.world)
    found = match_halvings(found, job.spec.halvings, job.world)
    devices = choose_virtual_devices(
        job.spec.distributed.virtual_devices,
        found.devices,
        job.world.size,
        None if job.numerics.device.type == "cuda" else job.world.threads or torch.get_num_threads(),
        ShardLimit(job.spec.optimization.batch_size, trains_batch_norm_ever(job.backbone, job.plan)),
    )
    if job.request.sharded_purposes() and devices.count < job.world.size:
        raise UserError(
            f"virtual_devices={devices.count}, but each of the {job.world.size} processes needs one, as hosts have"
            " their own records (ShardedByS3Key): use a larger batch_size or fewer instances, or FullyReplicated."
        )
    world: World | None = job.world
    if not job.input_provider.always_trains_replicated:
        world = job.world.first(devices.count)
    if world is None:  # There are more processes than virtual devices.
        return
    if devices.threads is not None:
        torch.set_num_threads(devices.threads)
    idle, resumes = job.world.size - world.size, found.devices is not None
    provider = job.input_provider.in_world(world)
    job = replace(job, world=world, devices=devices, input_provider=provider, idle_processes=idle, resumes=resumes)
    job = replace(job, memory=choose_memory(job))
    logger.info("%s", describe_plan(job))
    use_activation_checkpointing(job)
    evaluate_and_export(job, train(job, found))


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of training.

    Attributes:
        state: final training state; `None` if nothing was trained.
        finished: `False` if training was interrupted.
        run_history: run history, including the cost of interruptions so far.
        findings: findings of the rules.
        initial_weights: weights before the first step.
        schedule: learning rate schedule; `None` without gradient steps.
        stopped_by_rule: whether a rule ended training, with `rule_action=stop`.
        failure: error that the job raises after it has written its results.
        sharded: the trained model, if it is sharded.
        plan: plan that was decided on in training, with strategy `auto`; else `None`.
    """

    state: TrainingState | None
    finished: bool
    run_history: RunHistory
    findings: Findings
    initial_weights: InitialWeights | None = None
    schedule: Schedule | None = None
    stopped_by_rule: bool = False
    failure: DivergedError | None = None
    sharded: ShardedTraining | None = None
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class InitialModel:
    """What is kept of the model before training.

    Attributes:
        specification: returns the specification of the job, with digests of all weights.
        weights: the initial weights of the trainable layers, in the main process.
    """

    specification: Callable[[], Specification]
    weights: InitialWeights | None


def inspect_initial_model(job: PreparedJob, found: FoundCheckpoint, best_metric: BestMetric) -> InitialModel:
    """Inspect the model before training, and before it is sharded."""
    hosts = job.world.hosts if "train" in job.request.sharded_purposes() else 1
    specification = cache(
        partial(
            build_specification,
            *(job.spec, job.inputs, job.backbone, job.plan, job.numerics),
            best_metric=best_metric,
            hosts=hosts,
            solves_head=job.head_solver.solves,
        )
    )
    # Hashing all weights takes time: only for jobs that save checkpoints.
    if job.memory.is_sharded and found.store is not None:
        specification()
    weights: InitialWeights | None = None
    if job.world.is_main:
        with optional("The drift of the layers"):
            weights = InitialWeights(job.backbone, job.plan.ever_trainable)
    return InitialModel(specification, weights)


def train(job: PreparedJob, found: FoundCheckpoint | None) -> TrainingResult:
    """Train as planned, resuming from the checkpoint if there is one; `None` if nothing is trained."""
    run_history = RunHistoryFile(job.request.checkpoint_folder() if job.world.is_main else None)
    findings = Findings(run_history.account, job.spec.observe.rule_action == "stop")
    if found is None:
        return TrainingResult(None, True, run_history.account, findings)
    run_history.open(restart=job.spec.checkpoint.resume == "never")

    setup, best_metric = build_setup(job), choose_best_metric(job.spec, job.inputs)
    initial = inspect_initial_model(job, found, best_metric)
    if job.memory.is_sharded:
        job = replace(job, sharded=shard_model(job))

    debugged = job.world.is_main and job.sharded is None
    debugger = create_debugger(job.request.files.debug_hook if debugged else None, job.backbone.module)
    inputs = DebuggedInputs(job.input_provider, debugger)
    training = build_training(
        job.spec,
        job.backbone,
        job.plan,
        inputs,
        job.numerics,
        task=job.inputs.task,
        evaluate=partial(evaluate_epoch, job, inputs, best_metric.name),
        interrupted=lambda: job.interruption.requested() or findings.stopped,
        setup=setup,
        world=job.world,
        devices=job.devices,
        sharded=job.sharded,
        bad_records=job.loaders.bad_records,
        best_metric=best_metric,
        out_of_time=TimeBudget(job.spec.run.max_minutes, lambda: run_history.seconds, job.world).used_up,
    )
    bad_records, stream = job.loaders.bad_records, job.loaders.position()
    state = build_state(training, bad_records=bad_records, account=run_history, stream=stream, findings=findings)
    if job.auto is not None:
        state.averaging = start_averaging(job.backbone, state.weights)
        state.best.solved_records = len(job.inputs.validation.indices) if job.inputs.validation else 0
    debugger.watch(training.stepper.optimizer)
    rules = build_rule_observer(job, setup, training, findings)
    observers = build_observers(job, training, run_history, debugger, rules)
    plans: list[Plan] = []
    failure: DivergedError | None = None
    with open_checkpoints(
        found,
        job.spec.checkpoint,
        initial.specification,
        state,
        job.world,
        job.devices,
        sharded=job.sharded is not None,
    ) as checkpoints:
        timing = training.stepper.timing
        run_history.begin(state.progress.step, checkpoints.load_seconds, timing.snapshot, checkpoints.save_seconds)
        rules.begin()
        try:
            if job.auto is not None:
                finished = fit_auto(
                    *(training, state, observers, checkpoints.saver, job.head_solver.inputs),
                    strategy=job.auto,
                    decided=plans.append,
                )
            elif job.head_solver.solves:
                finished = fit_solved(training, state, observers.solved, checkpoints.saver, job.head_solver.inputs)
            else:
                finished = fit(training, state, observers.fine_tuning, checkpoints.saver)
        except DivergedError as error:
            finished, failure = False, error
        stopped_by_rule = job.world.broadcast(findings.stopped)
        if failure is None:
            checkpoints.saver.save_now(state, "final" if finished else "interruption")
        rules.end(state)
        debugger.close(finished=finished)
        timing.synchronize()
        run_history.close()
    if finished:
        with optional("Caching features for later jobs"):
            job.input_provider.save()
    restore_best(state)
    schedule = None if job.head_solver.solves else training.schedule
    return TrainingResult(
        state,
        finished,
        run_history.account,
        findings,
        initial.weights,
        schedule,
        stopped_by_rule,
        failure,
        job.sharded,
        plans[-1] if plans else None,
    )


def build_observers(
    job: PreparedJob, training: Training, run_history: RunHistoryFile, debugger: Debugger, rules: RuleObserver
) -> AutoObservers:
    """The observers that write log, run history, TensorBoard events and tensors, and the rules, in the main process."""
    if not job.world.is_main:
        return AutoObservers(Observers([]), Observers([]))
    events = EventFile(job.request.files.tensorboard or job.request.paths.tensorboard)
    tracking = TrackingObserver(events, debugger)
    progress = choose_progress(training.schedule.steps_per_epoch, job.spec.optimization.epochs)
    log = LogObserver(progress, run_history, job.loaders, job.spec.run, dialect_lines(job), training)
    return AutoObservers(
        Observers([SolvedHeadLogObserver(run_history), tracking, rules]), Observers([log, tracking, rules])
    )


def evaluate_epoch(job: PreparedJob, debugged_inputs: DebuggedInputs, best_metric: str) -> EpochMetrics | None:
    """Metrics of the current weights on validation, empty without validation records; `None` if interrupted."""
    debugged_inputs.debugger.begin_evaluation()
    inputs = job.input_provider.validation()
    if inputs is None:
        return {}
    predictions = job.predict(debugged_inputs.wrap(inputs))
    if predictions is None:
        return None
    row: EpochMetrics = {}
    if job.world.is_main:
        row = predictions.validation_row(job.inputs.task, best_metric, target_of(job.spec.observe))
    return job.world.broadcast(row)


def evaluate_and_export(job: PreparedJob, result: TrainingResult) -> None:
    """Evaluate the model; in the main process, export and check it, and write the other outputs.

    A stopped job exports the partially trained model.

    Raises:
        DivergedError: weights or predictions are not finite; the report is written, but no model.
        PlatformError: the model folder cannot be written.
    """
    state, finished = result.state, result.finished
    job = replace(job, sharded=result.sharded, plan=result.plan or job.plan)
    if state is not None and not finished and not state.progress.step:
        logger.info(_NOTHING_TO_EXPORT)
        return
    if state is not None:
        # A job interrupted after its last step gives the same result as an uninterrupted one, bit for bit.
        job.input_provider.prepare_phase(job.plan.phase(max(0, state.progress.epoch - 1)))

    evaluation = evaluate_parts(job) if finished or result.stopped_by_rule else Evaluation({}, {})
    if job.sharded is not None:
        # The main process alone exports the model, checks the artifact and measures the layers.
        job = replace(job, backbone=whole_model(job), sharded=None)
    if job.world.is_main:
        write_outputs(job, result, evaluation)
        return
    failure = result.failure or evaluation.failure
    if failure is not None:
        raise failure


def write_outputs(job: PreparedJob, result: TrainingResult, evaluation: Evaluation) -> None:
    """Export and check the model, then write the other outputs.

    Raises:
        DivergedError: weights or predictions are not finite; the report is written, but no model.
        PlatformError: the model folder cannot be written.
    """
    state, finished = result.state, result.finished
    epochs = state.progress.epoch if state is not None else 0
    log_final_metrics(job, evaluation.metrics or metrics_of_best_epoch(state), epochs)
    failure: Exception | None = result.failure or evaluation.failure
    thresholds, decision = decide_thresholds(job, evaluation.results)
    if thresholds is None and failure is None and state is not None and target_of(job.spec.observe) is not None:
        logger.warning("Stopped before validation was evaluated: the model uses thresholds of 0.5.")

    metrics: dict[str, object] = dict(evaluation.metrics)
    metrics["job"] = job_summary(job.backbone, job.plan, job.spec.strategy.name, state, finished=finished)
    metrics["interruptions"] = dict(result.run_history.as_json())
    if decision:
        metrics["decision"] = decision
    with optional("The rules about the evaluation"):
        history = state.history.rows if state is not None else []
        result.findings.add(findings_about_evaluation(job, evaluation.metrics, history))
    metrics["findings"] = result.findings.entries

    if failure is None:
        # Export first: the model does not depend on the other outputs.
        try:
            export_and_verify(job, finite(metrics), thresholds, next(iter(evaluation.results.values()), None))
            if state is not None:
                logger.info("%s", exported_line(state))
        except JobStopped:
            raise
        except Exception as error:  # noqa: BLE001  # raised below, after the results are written
            failure = error
    if failure is not None:
        metrics["failure"] = cause_of(failure)
    write_results(job, result, metrics, evaluation.results, thresholds)
    if failure is not None:
        raise failure
    logger.info("Done." if finished else "Stopped on request; exported the partially trained model.")


def write_results(
    job: PreparedJob,
    result: TrainingResult,
    metrics: dict[str, object],
    evaluated: Mapping[str, EvaluationResult],
    thresholds: ChosenThresholds | None,
) -> None:
    """Write metrics, predictions and report; a failure of one does not fail the job.

    Raises:
        OSError: with strategy=evaluate, metrics or predictions, which are its results, cannot be written.
    """
    folder = job.request.paths.output_data
    if result.state is not None and "failure" not in metrics:
        with optional("Measuring forgetting"):
            if measured := measure_forgetting(job, evaluated):
                metrics["forgetting"] = measured
    drift: Mapping[str, float] = {}
    if result.initial_weights is not None:
        with optional("Measuring the drift of the layers"):
            drift = result.initial_weights.drift(job.backbone)
    required = not job.spec.strategy.trains
    with optional("Writing metrics.json", required=required):
        # JSON has no NaN or infinity; the report shows which values were not finite.
        write_metrics(folder, finite(metrics))
    with optional("Writing the predictions", required=required):
        write_predictions(folder, evaluated, job.inputs.task, thresholds)
    with optional("Writing bad_records.json"):
        write_bad_records(folder, job.loaders)
    with optional("The report"):
        report = build_report(job, metrics, evaluated, result.run_history, drift, result.schedule)
        write_report(folder, report)
