"""The job from start to end: read the request, open the data, load the model, plan, train, evaluate, export, check."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from finetune.config.rules import rules_of
from finetune.errors import DivergedError, JobStopped, PlatformError, UserError
from finetune.evaluation.drift import StartingPoint
from finetune.evaluation.forgetting import forgetting
from finetune.evaluation.predict import EvaluationResult, Pass
from finetune.job.export_check import export_proven
from finetune.job.log_observer import LogObserver
from finetune.job.outputs import (
    Answers,
    exported_line,
    job_summary,
    known_metrics,
    metrics_of,
    write_bad_records,
    write_metrics,
    write_predictions,
)
from finetune.job.prepare import PreparedJob, prepare
from finetune.job.report import Outcome, Subject, write_report
from finetune.job.request import Request
from finetune.job.resume import keeping, specification_of
from finetune.job.rules import findings_about_answers, setup_of, watch
from finetune.job.thresholds import decide_on, given_thresholds, target_of
from finetune.monitoring.debugger import create_debugger
from finetune.monitoring.json_numbers import finite
from finetune.monitoring.metric_lines import final_line
from finetune.monitoring.progress import choose_progress
from finetune.monitoring.tensorboard import EventFile
from finetune.runtime.optional import optional
from finetune.sagemaker.failure import cause_of
from finetune.sagemaker.interruption import Interruption
from finetune.training.build import Companions, build_training
from finetune.training.observers.rules import Findings
from finetune.training.observers.tracking import DebuggedInputs, TrackingObserver
from finetune.training.run_history import RunHistory, RunHistoryFile, TimingSnapshot
from finetune.training.schedule import Schedule
from finetune.training.state import EpochMetrics, TrainingState
from finetune.training.trainer import fit, restore_best

logger = logging.getLogger(__name__)


def run_job(request: Request, interruption: Interruption) -> None:
    """Run a job until it finishes or is stopped.

    Raises:
        UserError: the request or the data cannot be used as they are.
        PlatformError: the machine failed.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        try:
            with interruption.raising(JobStopped):
                job = prepare(request, interruption, Path(scratch))
            conclude(job, train(job, request.checkpoint_folder()))
        except JobStopped:
            logger.info("Stopped before the first step: there is no model to export.")
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The device ran out of memory with batch_size={request.spec.optimisation.batch_size}: halve it and"
                " double gradient_accumulation_steps, which gives steps of the same size."
            ) from error
        except torch.AcceleratorError as error:
            raise PlatformError(f"The GPU failed: {str(error).splitlines()[0]}") from error


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of training.

    Attributes:
        state: final training state; `None` if nothing was trained.
        finished: `False` if training was interrupted.
        account: run history, including the cost of interruptions so far.
        findings: findings of the rules.
        start: the initial weights.
        schedule: learning rate schedule.
        stopped_by_rule: whether a rule ended training, with `rule_action=stop`.
        failure: error that the job raises after it has written its results.
    """

    state: TrainingState | None
    finished: bool
    account: RunHistory
    findings: Findings
    start: StartingPoint | None = None
    schedule: Schedule | None = None
    stopped_by_rule: bool = False
    failure: DivergedError | None = None


def train(job: PreparedJob, folder: Path | None) -> Trained:
    """Train as planned, resuming from the newest checkpoint if there is one.

    Args:
        job: the prepared job.
        folder: of the checkpoints; `None` if they would not outlive the job.
    """
    book = RunHistoryFile(folder)
    findings = Findings(book.account, job.spec.observe.rule_action == "stop")
    if job.loaders.train is None or job.spec.strategy.name == "evaluate":
        return Trained(None, True, book.account, findings)
    book.open(anew=job.spec.checkpoint.resume == "never")

    setup = setup_of(job)
    hook = create_debugger(job.request.files.debug_hook, job.backbone.module)
    looked_at = DebuggedInputs(job.feeds, hook)
    events = EventFile(job.request.files.tensorboard or job.request.paths.tensorboard)

    def evaluate() -> EpochMetrics | None:
        hook.begin_evaluation()
        feed = job.feeds.validation()
        if feed is None:
            return {}
        predictions = job.predict(looked_at.look(feed))
        return None if predictions is None else predictions.validation_row()

    companions = Companions(
        evaluate,
        lambda: job.interruption.requested() or findings.stopped,
        job.loaders.bad_records,
        book,
        rules_of(job.spec.observe.rules),
        job.loaders.position(),
        findings,
        setup,
    )
    training, state = build_training(job.spec, job.backbone, job.plan, looked_at, job.numerics, companions)
    hook.watch(training.stepper.optimizer)
    teller = LogObserver(choose_progress(training.schedule.steps_per_epoch), book, job.loaders, job.spec.run)
    recorder = TrackingObserver(teller, events, hook)
    observer = watch(job, setup, training, recorder, findings)
    start: StartingPoint | None = None
    with optional("The drift of the layers"):
        start = StartingPoint(job.backbone, job.plan.ever_trainable)
    # The specification hashes all weights: compute it only for jobs that save checkpoints.
    specify = partial(specification_of, job.spec, job.inputs, job.backbone, job.plan, job.numerics)
    with keeping(folder, job.spec.checkpoint, specify, state, job.interruption) as kept:
        timing = training.stepper.timing
        book.begin(state.progress.step, kept.load_seconds, lambda: TimingSnapshot(timing.snapshot(), *kept.seconds()))
        observer.begin()
        failure = None
        try:
            finished = fit(training, state, observer, kept.checkpoints)
        except DivergedError as error:
            finished, failure = False, error
        stopped_by_rule = findings.stopped
        if failure is None:
            kept.checkpoints.save_now(state, "final" if finished else "interruption")
        observer.end(state)
        hook.close(finished=finished)
        timing.synchronize()
        book.close()
    if finished:
        with optional("Leaving features for later jobs"):
            job.feeds.save()
    restore_best(state)
    return Trained(state, finished, book.account, findings, start, training.schedule, stopped_by_rule, failure)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The final evaluation of the exported weights.

    Attributes:
        evaluated: predictions by part.
        metrics: by part, as JSON values.
        failure: set if the predictions are not finite.
    """

    evaluated: Mapping[str, EvaluationResult]
    metrics: Mapping[str, dict[str, object]]
    failure: DivergedError | None = None


def conclude(job: PreparedJob, trained: Trained) -> None:
    """Evaluate, export and check the model, then write the other outputs.

    A stopped job exports the partially trained model.

    Raises:
        DivergedError: weights or predictions are not finite; the report is written, but no model.
        PlatformError: the model folder cannot be written.
    """
    state, finished = trained.state, trained.finished
    if state is not None and not finished and not state.progress.step:
        logger.info("Stopped before the first step: there is no model to export.")
        return
    if state is not None:
        # A job interrupted after its last step gives the same result as an uninterrupted one, bit for bit.
        job.feeds.prepare_phase(job.plan.phase(max(0, state.progress.epoch - 1)))
    evaluation = evaluate_parts(job) if finished or trained.stopped_by_rule else Evaluation({}, {})
    evaluated, labels = evaluation.evaluated, job.inputs.labels.names
    failure: Exception | None = trained.failure or evaluation.failure
    metrics: dict[str, object] = dict(evaluation.metrics)
    metrics["job"] = job_summary(job.backbone, job.plan, job.spec.strategy.name, state, finished=finished)
    metrics["interruptions"] = dict(trained.account.as_json())
    logger.info("%s", final_line(evaluation.metrics or known_metrics(state)) or "Nothing was evaluated.")
    decision, told = decide_on(evaluated, labels, target_of(job.spec.observe))
    if decision is None and job.spec.strategy.name == "evaluate":
        decision = given_thresholds(job.given.source, labels)
    elif decision is not None:
        metrics["decision"] = told
    elif target_of(job.spec.observe) is not None and failure is None:
        logger.warning("Stopped before validation was evaluated: the model has the usual thresholds of 0.5.")
    history = state.history.rows if state is not None else []
    with optional("The rules about the evaluation"):
        trained.findings.take(findings_about_answers(job, setup_of(job), evaluation.metrics, history))
    metrics["findings"] = trained.findings.found
    if failure is None:
        # Export first: the model does not depend on the other outputs.
        try:
            export_proven(job, finite(metrics), decision, next(iter(evaluated.values()), None))
            if state is not None:
                logger.info("%s", exported_line(state))
        except JobStopped:
            raise
        except Exception as error:  # noqa: BLE001  # raised below, after the results are written
            failure = error
    if failure is not None:
        metrics["failure"] = cause_of(failure)
    write_results(job, trained, metrics, Answers(evaluated, decision))
    if failure is not None:
        raise failure
    logger.info("Done." if finished else "Stopped in order; the model is exported as far as it came.")


def write_results(job: PreparedJob, trained: Trained, metrics: dict[str, object], answers: Answers) -> None:
    """Write metrics, predictions and report; a failure of one does not fail the job.

    Raises:
        OSError: with strategy=evaluate, metrics or predictions, which are its results, cannot be written.
    """
    folder, evaluated = job.request.paths.output_data, answers.evaluated
    drift: Mapping[str, float] = {}
    if trained.state is not None and "failure" not in metrics:
        with optional("The comparison with the given network (forgetting)"):
            if lost := _forgotten(job, evaluated):
                metrics["forgetting"] = lost
    if trained.start is not None:
        with optional("The drift of the layers"):
            drift = trained.start.drift(job.backbone)
    needed = job.spec.strategy.name == "evaluate"
    with optional("The file metrics.json", needed=needed):
        # JSON has no NaN or infinity; the report shows which values were not finite.
        write_metrics(folder, finite(metrics))
    with optional("The list of predictions", needed=needed):
        write_predictions(folder, answers)
    with optional("The list of bad records"):
        write_bad_records(folder, job.loaders)
    with optional("The report"):
        subject = Subject(job.request, job.inputs, job.backbone, job.plan, job.loaders, job.numerics)
        write_report(folder, subject, Outcome(metrics, evaluated, trained.account, drift, trained.schedule))


def _forgotten(job: PreparedJob, evaluated: Mapping[str, EvaluationResult]) -> dict[str, object]:
    """Forgetting of the given model's classes; empty if it cannot be measured."""
    part = next((name for name in ("test", "validation") if name in evaluated), None)
    if part is None or job.spec.strategy.name == "from_scratch":
        return {}
    how = Pass(job.numerics.device, job.numerics.context, job.interruption.requested)
    found = forgetting(job.given, job.backbone, evaluated[part], how, job.numerics)
    return {"part": part, **found} if found else {}


def evaluate_parts(job: PreparedJob) -> Evaluation:
    """Evaluate validation and test, or the training records if strategy=evaluate has no other.

    A part that cannot be evaluated causes a warning, unless the model or the request depends on it.

    Raises:
        DataError: a required part cannot be read.
    """
    loaders, evaluates = job.loaders, job.spec.strategy.name == "evaluate"
    named = {"validation": loaders.validation, "test": loaders.test}
    if evaluates and not any(named.values()):
        named = {"train": loaders.train}
    objective = (job.spec.objective or "").partition(":")[0]
    needed = set(named) if evaluates else {objective} | ({"validation"} if target_of(job.spec.observe) else set())
    evaluated: dict[str, EvaluationResult] = {}
    metrics: dict[str, dict[str, object]] = {}
    try:
        for name, batches in named.items():
            feed = job.feeds.validation() if name == "validation" else job.feeds.full_model_inputs(batches)
            if batches is None or feed is None:
                continue
            with optional(f"The evaluation of {name!r}", needed=name in needed, passing=DivergedError):
                predictions = job.predict(feed)
                if predictions is not None:
                    one = EvaluationResult(batches, predictions)
                    metrics[name] = metrics_of(one, job.inputs.labels, job.spec.run.top_k)
                    evaluated[name] = one
    except DivergedError as error:
        return Evaluation({}, {}, error)
    return Evaluation(evaluated, metrics)
