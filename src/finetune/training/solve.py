"""Solves the head on the features of one pass over the training records, in place of the epochs of `trainer.fit`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from finetune.data.loading.batches import Batch
from finetune.errors import DivergedError, JobStopped
from finetune.models.backbone import Outputs
from finetune.models.hidden_layer import PassThrough, classifier_inputs
from finetune.runtime.threads import limit_threads
from finetune.solver.baselines import Baselines, measure_baselines
from finetune.solver.head import Solution, StrengthResult, best_solution, solve_head
from finetune.strategies.freezing import apply_trainable
from finetune.training.inputs import PhaseInputs
from finetune.training.observers.base import Observer
from finetune.training.saved_state.state import TrainingState
from finetune.training.steps import Situation
from finetune.training.trainer import Checkpoints, Training, end_epoch, grouped, next_group, steps_of_phase

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """Candidates for the inputs of the last layer.

    Attributes:
        keeps_hidden: Whether the hidden layers of the head may be used as they are.
        pass_through: Hidden layer that may pass its inputs through instead; `None` if there is none.
    """

    keeps_hidden: bool = True
    pass_through: PassThrough | None = None

    def candidates(self) -> list[PassThrough | None]:
        """Return the candidates; `None` stands for the head as it is."""
        passed = [] if self.pass_through is None else [self.pass_through]
        return [*([None] if self.keeps_hidden else []), *passed]


@dataclass(slots=True)
class _Records:
    """Inputs of the last layer in parts, `[rows, width]` for each candidate, with targets and positions."""

    features: list[list[Tensor]] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _SortedRecords:
    """All training records by position, in the main process.

    Attributes:
        features: float32 `[records, width]` for each candidate, on the device of the model.
        targets: Targets of the task, `[records]` or `[records, classes]`, there as well.
    """

    features: list[Tensor]
    targets: Tensor


@dataclass(frozen=True, slots=True)
class _Choice:
    """The solution of the best candidate.

    Attributes:
        candidate: Index of the candidate.
        solution: Its solution.
        baselines: Simpler measures to compare it with.
    """

    candidate: int
    solution: Solution
    baselines: Baselines


def fit_solved(
    training: Training, state: TrainingState, observer: Observer, checkpoints: Checkpoints, inputs: HeadInputs
) -> bool:
    """Solve the head and evaluate it, as one epoch of a single step.

    A job that is interrupted before the head is solved repeats the whole solve.

    Args:
        training: The training; its optimizer is not used.
        state: Initial or resumed state.
        observer: Observer of the epoch and its step.
        checkpoints: Saves the state.
        inputs: Candidates for the inputs of the last layer.

    Returns:
        Whether the job is finished; otherwise it was interrupted, and can be resumed from the state.

    Raises:
        DataError: No training record can be read.
        DivergedError: The features are not finite.
    """
    progress = state.progress
    if progress.epoch:
        return True
    if not progress.step:
        if not _solve(training, state, observer, inputs):
            return False
        progress.step = progress.step_in_epoch = 1
        observer.step_done(state, torch.tensor(state.totals.means()["loss"]))
        checkpoints.step_done(state)
    # A job resumed here has not entered the phase yet, whose features are evaluated.
    training.inputs.training(training.plan.phase(0))
    return end_epoch(training, state, observer, checkpoints)


def _solve(training: Training, state: TrainingState, observer: Observer, inputs: HeadInputs) -> bool:
    """Collect the features, and solve the head in all processes; return `False` if the job was interrupted."""
    begin, candidates = dict(state.stream.state_dict()), inputs.candidates()
    own = _collect(training, state, observer, candidates)
    stopped = own is None
    if own is not None:
        records = _gather(training, own)
        with training.stepper.timing.device("update"):
            choice, stopped = _solve_together(training, records)
    if stopped:
        state.stream.load_state_dict(begin)
        return False
    _adopt(training, state, records, choice, candidates)
    return True


def _collect(
    training: Training, state: TrainingState, observer: Observer, candidates: list[PassThrough | None]
) -> _Records | None:
    """Compute this process's share of the features in one pass; return `None` if any process is to stop."""
    stepper = training.stepper
    phase = training.plan.phase(0)
    apply_trainable(stepper.backbone, phase.trainable)
    observer.epoch_begins(state, phase)
    inputs = training.inputs.training(phase)
    records = _Records()
    with (
        limit_threads(single_threaded=inputs.single_threaded),
        closing(steps_of_phase(training, inputs)) as steps,
        closing(inputs.source.iterate(0, 0, steps.share)) as batches,
        classifier_inputs(stepper.backbone.classifier),
    ):
        # Frozen hidden layers of the head, and its dropout, are functions of the features.
        stepper.backbone.module.eval()
        groups = stepper.timing.measure_waiting(grouped(batches, steps.batches_per_step))
        for number in itertools.count():
            state.stream.begin_step()
            group, interrupted = next_group(groups, training.interrupted, drawn=steps.draws_in_lockstep)
            own = Situation(interrupted, training.bad_records.unshared, state.stream.mark)
            agreement = steps.agree(group, number, own)
            if agreement.bad_records:
                training.bad_records.share(training.world)
            if agreement.stop:
                return None
            state.stream.compare(agreement.marks)
            if agreement.ended:
                break
            # Processes that all have all batches need the features in the main process alone.
            for batch in group if training.world.is_main or not inputs.replicated else ():
                if len(batch.targets):
                    records.features.append([_head_inputs(training, inputs, batch, it) for it in candidates])
                    records.targets.append(batch.targets)
                    records.positions += batch.positions
    return records


def _head_inputs(training: Training, inputs: PhaseInputs, batch: Batch, candidate: PassThrough | None) -> Tensor:
    """Return the inputs of the last layer for a batch, float32 `[rows, width]`."""
    applied = nullcontext() if candidate is None else candidate.applied()
    with torch.no_grad(), applied, training.stepper.numerics.context():
        return inputs.forward(batch.inputs).logits.float()


def _gather(training: Training, own: _Records) -> _SortedRecords | None:
    """Return the records of all processes by position in the main process, `None` in the others or without records.

    The order, and so the result, depends neither on batches nor on the number of processes of a host.
    """
    world, device = training.world, training.stepper.numerics.device
    parts = [own]
    if world.size > 1:
        features = [[value.cpu() for value in candidates] for candidates in own.features]
        parts = world.gather(_Records(features, [value.cpu() for value in own.targets], own.positions))
    positions = [position for part in parts for position in part.positions]
    if not positions:
        return None
    targets = torch.cat([value for part in parts for value in part.targets])
    order = torch.argsort(torch.tensor(positions), stable=True).to(targets.device)
    by_candidate = zip(*(values for part in parts for values in part.features), strict=True)
    return _SortedRecords([torch.cat(values)[order].to(device) for values in by_candidate], targets[order].to(device))


def _solve_together(training: Training, records: _SortedRecords | None) -> tuple[_Choice | None, bool]:
    """Solve the head in the main process, while the others wait; return it there, and whether any is to stop."""
    world, stopping = training.world, False
    if not world.is_main:
        while True:
            stops, ended = world.sum_integers([int(training.interrupted()), 0])
            if ended:
                return None, stops > 0

    def check() -> None:
        if stopping or training.interrupted():
            raise JobStopped

    def report(result: StrengthResult) -> None:
        nonlocal stopping
        logger.info("%s", strength_line(result))
        stopping = world.sum_integers([int(training.interrupted()), 0])[0] > 0

    choice: _Choice | None = None
    try:
        choice = None if records is None else _solve_records(training, records, check, report)
    except JobStopped:
        stopping = True
    stops, _ = world.sum_integers([int(stopping or training.interrupted()), 1])
    return choice, stops > 0


def _solve_records(
    training: Training, records: _SortedRecords, check: Callable[[], None], report: Callable[[StrengthResult], None]
) -> _Choice:
    task, loss = training.stepper.loss.task, training.stepper.loss
    if not all(features.isfinite().all() for features in records.features):
        raise DivergedError("The outputs of the frozen layers are not finite: set precision=fp32.")
    targets = records.targets
    if task.has_exclusive_classes:
        targets = functional.one_hot(targets, task.outputs)
    solutions = []
    for number, features in enumerate(records.features):
        if number:
            logger.info("the same for a hidden layer of the head that passes its inputs through:")
        solutions.append(
            solve_head(
                features,
                targets,
                exclusive=task.has_exclusive_classes,
                class_weights=loss.class_weights,
                seed=training.stepper.seed,
                check=check,
                report=report,
            )
        )
    best = best_solution(solutions)
    exclusive, estimate = task.has_exclusive_classes, solutions[best].estimate
    baselines = measure_baselines(records.features[best], targets, estimate, exclusive=exclusive)
    return _Choice(best, solutions[best], baselines)


def strength_line(result: StrengthResult) -> str:
    """Return the log line of a regularization strength; fixed decimals, as in metric lines."""
    return f"strength={result.strength:.4f} cv_loss={result.cv_loss:.6f} cv_accuracy={result.cv_accuracy:.6f}"


def _adopt(
    training: Training,
    state: TrainingState,
    records: _SortedRecords | None,
    choice: _Choice | None,
    candidates: list[PassThrough | None],
) -> None:
    """Set the head in all processes, and record its loss and metrics on the training records."""
    world, totals, classifier = training.world, state.totals, training.stepper.backbone.classifier
    sent = None
    if choice is not None:
        head = choice.solution.head
        sent = choice.candidate, head.weight.float().cpu(), head.bias.float().cpu()
    sent = world.broadcast(sent)
    if sent is None:
        return
    hidden = candidates[sent[0]]
    if hidden is not None:
        hidden.apply()
    with torch.no_grad():
        classifier.weight.copy_(sent[1])
        classifier.bias.copy_(sent[2])
        if records is not None and choice is not None:
            features = records.features[choice.candidate]
            logits = functional.linear(features, classifier.weight.float(), classifier.bias.float())
            totals.add(training.stepper.loss(Outputs(logits), records.targets), logits, records.targets)
            state.history.solution = {
                "records": len(records.targets),
                "hidden_layer": "unchanged" if hidden is None else "passes its inputs through",
                **choice.solution.as_json(),
                **asdict(choice.baselines),
            }
    sums, count, state.history.solution = world.broadcast((totals.sums().cpu(), totals.records, state.history.solution))
    if not world.is_main:
        totals.add_sums(sums.to(totals.loss.device), count)
