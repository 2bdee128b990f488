"""The job as a story: read the request, open the data, load the network, plan, train, evaluate, export, prove."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from finetune.contract.interruption import Interruption
from finetune.data.record import Stopped
from finetune.errors import DivergedError, PlatformError, UserError
from finetune.evaluation.predict import Pass
from finetune.job.account import Account, AccountBook, Meter
from finetune.job.announce import LogObserver
from finetune.job.deciding import decide_on, given_thresholds, target_of
from finetune.job.drift import StartingPoint
from finetune.job.forgetting import forgetting
from finetune.job.learning import Companions, build_training
from finetune.job.prepare import Prepared, prepare
from finetune.job.proof import export_proven
from finetune.job.recording import LookedAt, Recorder
from finetune.job.reporting import Outcome, Subject, write_report
from finetune.job.request import Request
from finetune.job.results import Answers, Evaluated, job_summary, metrics_of, write_outputs
from finetune.job.resume import keeping, specification_of
from finetune.job.watching import Findings, findings_about_classes, watch
from finetune.observe.debugger import debugger
from finetune.observe.finite import finite
from finetune.observe.metric_lines import final_line
from finetune.observe.progress import pace
from finetune.observe.tensorboard import EventFile
from finetune.spec.rules import rules_of
from finetune.training.loop import fit, restore_best
from finetune.training.schedule import Schedule
from finetune.training.state import Row, TrainingState

logger = logging.getLogger(__name__)


def run_job(request: Request, interruption: Interruption) -> None:
    """Run a job until it is done or asked to stop.

    Raises:
        UserError: the request or the data cannot be used as they are.
        PlatformError: the machine failed.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        try:
            job = prepare(request, interruption, Path(scratch))
            conclude(job, train(job, request.checkpoint_folder()))
        except Stopped:
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
    """What training came to.

    Attributes:
        state: `None` where nothing was to be trained.
        finished: otherwise it was interrupted.
        account: what interruptions have cost so far.
        findings: of the rules.
        drift: how far each group of layers moved.
        schedule: of the rates.
        stopped_by_rule: whether a rule ended it, with `rule_action=stop`.
        failure: what the job fails of, once it has told what it knows.
    """

    state: TrainingState | None
    finished: bool
    account: Account
    findings: Findings
    drift: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule | None = None
    stopped_by_rule: bool = False
    failure: DivergedError | None = None


def train(job: Prepared, folder: Path | None) -> Trained:
    """Train as planned, from the newest checkpoint on where there is one.

    Args:
        job: what to train.
        folder: of the checkpoints; `None` where nobody would keep them.
    """
    book = AccountBook(folder)
    findings = Findings(book.account, job.spec.observe.rule_action == "stop")
    if job.loaders.train is None or job.spec.strategy.name == "evaluate":
        return Trained(None, True, book.account, findings)
    book.open(anew=job.spec.checkpoint.resume == "never")

    hook = debugger(job.request.files.debug_hook, job.backbone.module)
    looked_at = LookedAt(job.feeds, hook)
    events = EventFile(job.request.files.tensorboard or job.request.paths.tensorboard)

    def evaluate() -> Row | None:
        hook.evaluating()
        feed = job.feeds.validation()
        if feed is None:
            return {}
        predictions = job.predict(looked_at.look(feed))
        if predictions is None:
            return None
        return {"validation:loss": predictions.loss, "validation:accuracy": predictions.accuracy}

    companions = Companions(
        evaluate,
        lambda: bool(job.interruption) or findings.stopped,
        job.loaders.bad_records,
        book,
        rules_of(job.spec.observe.rules),
        job.loaders.position(),
        findings,
    )
    training, state = build_training(job.spec, job.backbone, job.plan, looked_at, job.numerics, companions)
    hook.watch(training.stepper.optimizer)
    teller = LogObserver(pace(training.schedule.steps_per_epoch), book, job.loaders, job.spec.run)
    recorder = Recorder(teller, events, hook)
    observer = watch(job.inputs, job.spec, training, recorder, findings)
    start = StartingPoint(job.backbone, job.plan.ever_trainable)
    # Weights are read for it, which only those wait for whose state is kept.
    specify = partial(specification_of, job.spec, job.inputs, job.backbone, job.plan, job.numerics)
    with keeping(folder, job.spec.checkpoint, specify, state, job.interruption) as kept:
        timing = training.stepper.timing
        book.begin(state.progress.step, kept.load_seconds, lambda: Meter(timing.so_far(), *kept.seconds()))
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
        timing.settle()
        book.close()
    if finished:
        job.feeds.leave()
    restore_best(state)
    drift = start.drift(job.backbone)
    return Trained(state, finished, book.account, findings, drift, training.schedule, stopped_by_rule, failure)


def conclude(job: Prepared, trained: Trained) -> None:
    """Evaluate, report, export and prove; a stopped job leaves the model as far as it came.

    Raises:
        DivergedError: the network's numbers are not finite; the report is written, and no model.
    """
    paths = job.request.paths
    state, finished = trained.state, trained.finished
    if state is not None and not finished and not state.progress.step:
        logger.info("Stopped before the first step: there is no model to export.")
        return
    if state is not None:
        # A job that was interrupted behind its last step goes the same way as one that was not, to the last bit.
        job.feeds.enter(job.plan.phase(max(0, state.progress.epoch - 1)))
    failure = trained.failure
    evaluated = evaluate_parts(job) if finished or trained.stopped_by_rule else {}
    try:
        parts = {name: metrics_of(one, job.inputs.labels, job.spec.run.top_k) for name, one in evaluated.items()}
    except DivergedError as error:
        evaluated, parts, failure = {}, {}, error
    metrics: dict[str, object] = dict(parts)
    if failure is None and state is not None and (lost := _forgotten(job, evaluated)):
        metrics["forgetting"] = lost
    metrics["job"] = job_summary(job.backbone, job.plan, job.spec.strategy.name, state, finished=finished)
    metrics["interruptions"] = dict(trained.account.as_json())
    logger.info("%s", final_line(parts) or "Nothing was evaluated.")
    decision, told = decide_on(evaluated, job.inputs.labels.names, target_of(job.spec.observe))
    if decision is None and job.spec.strategy.name == "evaluate":
        decision = given_thresholds(job.given.source, job.inputs.labels.names)
    elif decision is not None:
        metrics["decision"] = told
    if failure is not None:
        metrics["failure"] = str(failure)
    trained.findings.take(findings_about_classes(job.inputs, job.spec, metrics))
    metrics["findings"] = trained.findings.found
    # Whoever reads JSON reads numbers only; the report says what was none.
    readable = finite(metrics)
    write_outputs(paths.output_data, readable, Answers(evaluated, decision), job.loaders)
    subject = Subject(job.request, job.inputs, job.backbone, job.plan, job.loaders, job.numerics)
    found = Outcome(metrics, evaluated, trained.account, trained.drift, trained.schedule)
    write_report(paths.output_data, subject, found)
    if failure is not None:
        raise failure
    export_proven(job, readable, decision, next(iter(evaluated.values()), None))
    logger.info("Done." if finished else "Stopped in order; the model is exported as far as it came.")


def _forgotten(job: Prepared, evaluated: Mapping[str, Evaluated]) -> dict[str, object]:
    """What the given network knew before, and what is left of it; empty where that cannot be said."""
    part = next((name for name in ("test", "validation") if name in evaluated), None)
    if part is None or job.spec.strategy.name == "from_scratch":
        return {}
    how = Pass(job.numerics.device, job.numerics.context, job.interruption.__bool__)
    found = forgetting(job.given, job.backbone, evaluated[part], how, job.numerics)
    return {"part": part, **found} if found else {}


def evaluate_parts(job: Prepared) -> dict[str, Evaluated]:
    """Predictions about validation and test, about the training records where there is nothing else to evaluate."""
    loaders = job.loaders
    named = {"validation": loaders.validation, "test": loaders.test}
    if job.spec.strategy.name == "evaluate" and not any(named.values()):
        named = {"train": loaders.train}
    evaluated = {}
    for name, batches in named.items():
        feed = job.feeds.validation() if name == "validation" else job.feeds.whole(batches)
        predictions = None if feed is None else job.predict(feed)
        if batches is not None and predictions is not None:
            evaluated[name] = Evaluated(batches, predictions)
            logger.info("%s: loss %.6f, accuracy %.6f", name, predictions.loss, predictions.accuracy)
    return evaluated
