"""Evaluates the rules during a job: collects their inputs, reports findings and stops the job if configured."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from finetune.monitoring.rules.curves import (
    RECHECKED_RULES,
    TrainingCurves,
    check_class_balance,
    check_curves,
    resolution,
)
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.machine import MachineSample, check_step_times, check_utilization
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.symptoms import check_training
from finetune.monitoring.timing import Timing
from finetune.runtime.optional import Guard
from finetune.strategies.plan import Phase
from finetune.training.probe import Probe
from finetune.training.run_history import RunHistory
from finetune.training.state import EpochMetrics, TrainingState

logger = logging.getLogger(__name__)

_SAMPLE_STEPS = 10
_LOOKS = 10
"""Step times are compared again each time their number has grown by a tenth."""


@dataclass(slots=True)
class Findings:
    """Findings of the rules, at most one per rule in the whole job, across interruptions.

    Findings about tensors, curves and classes are functions of the step: they are part of the checkpoint and the same
    in an interrupted job. Wall-clock-based findings depend on the machine, which changes between starts, so they are
    kept in the account.

    Attributes:
        account: Run history over all starts.
        stops: Whether a finding stops the job.
        stopped: Whether a finding has stopped it.
        found: All findings except wall-clock-based ones, as JSON values.
    """

    account: RunHistory
    stops: bool
    stopped: bool = False
    found: list[dict[str, object]] = field(default_factory=list)

    def take(self, found: Iterable[Finding]) -> None:
        """Report new step-based findings."""
        self._tell(found, self.found)

    def take_timed(self, found: Iterable[Finding]) -> None:
        """Report new wall-clock-based findings."""
        self._tell(found, self.account.machine_findings)

    def judge_again(self, rules: Collection[str], holding: Iterable[Finding], reason: str) -> None:
        """At the end, mark earlier findings of the given rules as resolved unless they still hold.

        Args:
            rules: Rules to evaluate again.
            holding: Findings at the end, which replace the earlier ones.
            reason: Why the others no longer hold.
        """
        now = {finding.rule: finding for finding in holding}
        for at, known in enumerate(self.found):
            rule = str(known["rule"])
            if rule in now:
                self.found[at] = now[rule].as_json()
            elif rule in rules:
                self.found[at] = known | {"resolved": reason}
                logger.info("rule %s is resolved: %s", rule, reason)

    def _tell(self, found: Iterable[Finding], known: list[dict[str, object]]) -> None:
        for finding in found:
            if all(finding.rule != one["rule"] for one in known):
                known.append(finding.as_json())
                logger.warning("%s", finding.line())
                self.stopped = self.stopped or self.stops

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"found": [dict(one) for one in self.found], "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore plain values; a job stopped by a rule stays stopped, unless rules may no longer stop it.

        Raises:
            ValueError: The values do not have the expected form.
        """
        self.found = [Finding.from_json(one).as_json() for one in state["found"]]
        self.stopped = self.stops and bool(state["stopped"])


@dataclass(slots=True)
class RuleObserver:
    """Evaluates the rules on the events of training.

    Attributes:
        probe: Inspects tensors in a sample of the steps.
        timing: Time spent by part of the step.
        rules: Selected rules.
        findings: Findings so far.
        steps_per_epoch: Optimizer steps per epoch; 0 if unknown because the data is streamed.
        validation_records: Number of validation records.
        class_counts: Training records by class; empty if unknown.
        baseline_score: Score of the best constant prediction on the training records.
        setup: Setup of the job, to tailor the advice.
    """

    probe: Probe
    timing: Timing
    rules: Rules
    findings: Findings
    steps_per_epoch: int
    validation_records: int
    class_counts: Mapping[str, int] = field(default_factory=dict)
    baseline_score: float = 0.0
    setup: Setup = field(default_factory=Setup)
    guard: Guard = field(default_factory=lambda: Guard("Watching by rules"))
    _step: int = 0
    _next_look: int = 0
    _samples: list[MachineSample] = field(default_factory=list)
    _mark: tuple[float, float, float, float] | None = None

    def begin(self) -> None:
        """Evaluate the rules that apply before the first step."""
        self.guard(self._begin)

    def _begin(self) -> None:
        self.findings.take(check_class_balance(self.class_counts, self.rules, self.setup))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Start measuring the machine's utilization again."""
        del phase
        self._mark = None
        self._step = state.progress.step

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Take the findings of the latest tensor sample."""
        self._step = state.progress.step
        self.guard(self._look_at_step, state, loss)

    def _look_at_step(self, state: TrainingState, loss: Tensor) -> None:
        self.findings.take(self.probe.after_step(loss))
        if torch.cuda.is_available() and state.progress.step % _SAMPLE_STEPS == 0:
            self._sample()

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Evaluate the rules on the metrics so far and on the machine's utilization."""
        del epoch, row
        self.guard(self._look_at_epochs, history)

    def _look_at_epochs(self, history: list[EpochMetrics]) -> None:
        course = self._course(history, self._step)
        self.findings.take(check_curves(course, self.rules))
        if course.step >= self._next_look:
            # Takes milliseconds, which is significant for short epochs.
            self._next_look = course.step + course.step // _LOOKS
            self.findings.take_timed(check_step_times(self.timing.steps, self.rules, course.step, course.setup))
        self.findings.take_timed(check_utilization(self._samples, self.rules, course.step, course.setup))

    def end(self, state: TrainingState) -> None:
        """Take pending findings, evaluate the whole run, and evaluate earlier findings again.

        Call this after the last checkpoint: a job resumed from there has not ended yet.
        """
        self.guard(self._look_at_all, state)

    def _look_at_all(self, state: TrainingState) -> None:
        self.findings.take(self.probe.read())
        course = self._course(state.history.rows, state.progress.step)
        self.findings.take_timed(check_step_times(self.timing.steps, self.rules, course.step, course.setup))
        self.findings.take(check_training(course, self.baseline_score) if self.rules else [])
        diverged = course.rows and not math.isfinite(course.rows[-1]["train:loss"])
        # A finding that stopped the job stays valid.
        if course.rows and not diverged and not self.findings.stopped:
            self._judge_again(course, state)

    def _judge_again(self, course: TrainingCurves, state: TrainingState) -> None:
        last, best = len(course.rows) - 1, state.best
        rules, holding = set(RECHECKED_RULES), check_curves(course, self.rules)
        if best.weights and best.epoch < last:
            # The exported weights are from before the overfitting.
            rules.remove("Overfit")
            holding = [one for one in holding if one.rule != "Overfit"]
            reason = f"the weights of epoch {best.epoch + 1}, the best one, are exported"
            self.findings.judge_again(["Overfit"], (), reason)
        self.findings.judge_again(rules, holding, resolution(course))
        self.findings.judge_again(self.probe.refuted, (), "no longer the case in the last look at the tensors")

    def _course(self, rows: list[EpochMetrics], step: int) -> TrainingCurves:
        per_epoch = self.steps_per_epoch or max(1, step // max(1, len(rows)))
        return TrainingCurves(rows, per_epoch, self.validation_records, self.setup)

    def _sample(self) -> None:
        seconds = self.timing.seconds
        busy = seconds["forward"] + seconds["backward"] + seconds["update"]
        now = (time.perf_counter(), time.process_time(), busy, seconds["data"])
        if self._mark is not None:
            wall, cpu, gpu, data = (100 * (after - before) for after, before in zip(now, self._mark, strict=True))
            free, total = torch.cuda.mem_get_info()
            cores = len(os.sched_getaffinity(0))
            sample = MachineSample(
                min(100.0, 100 * gpu / wall), 100 * cpu / wall / cores, 100 * data / wall, 100 * (1 - free / total)
            )
            self._samples.append(sample)
        self._mark = now
