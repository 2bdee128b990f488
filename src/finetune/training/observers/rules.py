"""Evaluates the rules during a job: collects their inputs, reports findings and stops the job if configured."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from finetune.monitoring.rules.learning_rate import check_learning_rates
from finetune.monitoring.rules.machine import (
    MachineSample,
    ProcessTimes,
    check_load_balance,
    check_step_times,
    check_utilization,
)
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.symptoms import check_training
from finetune.monitoring.timing import Timing
from finetune.runtime.optional import Guard
from finetune.runtime.threads import usable_cores
from finetune.strategies.plan import Phase
from finetune.training.probe import Probe
from finetune.training.saved_state.run_history import RunHistory
from finetune.training.saved_state.state import EpochMetrics, TrainingState

logger = logging.getLogger(__name__)

_SAMPLE_STEPS = 10
_STEP_TIME_CHECKS = 10
"""Step times are compared again each time their number has grown by a tenth."""


@dataclass(slots=True)
class Findings:
    """Findings of the rules, at most one per rule in the whole job, across interruptions.

    Findings about tensors, curves and classes are functions of the step: they are part of the checkpoint and the same
    in an interrupted job. Wall-clock-based findings depend on the machine, which changes between starts, so they are
    kept in the run history.

    Attributes:
        run_history: Run history over all starts.
        stops: Whether a finding stops the job.
        stopped: Whether a finding has stopped it.
        entries: All findings except wall-clock-based ones, as JSON values.
    """

    run_history: RunHistory
    stops: bool
    stopped: bool = False
    entries: list[dict[str, object]] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Log and add new step-based findings."""
        self._add(findings, self.entries)

    def add_timed(self, findings: Iterable[Finding]) -> None:
        """Log and add new wall-clock-based findings."""
        self._add(findings, self.run_history.machine_findings)

    def reevaluate(self, rules: Collection[str], current: Iterable[Finding], reason: str) -> None:
        """At the end, mark earlier findings of the given rules as resolved unless they still hold.

        Args:
            rules: Rules to evaluate again.
            current: Findings at the end, which replace the earlier ones.
            reason: Why the others no longer hold.
        """
        current_by_rule = {finding.rule: finding for finding in current}
        for index, entry in enumerate(self.entries):
            rule = str(entry["rule"])
            if rule in current_by_rule:
                self.entries[index] = current_by_rule[rule].as_json()
            elif rule in rules:
                self.entries[index] = entry | {"resolved": reason}
                logger.info("rule %s is resolved: %s", rule, reason)

    def _add(self, findings: Iterable[Finding], entries: list[dict[str, object]]) -> None:
        for finding in findings:
            if all(finding.rule != entry["rule"] for entry in entries):
                entries.append(finding.as_json())
                logger.warning("%s", finding.line())
                self.stopped = self.stopped or self.stops

    def state_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"found": [dict(entry) for entry in self.entries], "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore plain values; a job stopped by a rule stays stopped, unless rules may no longer stop it.

        Raises:
            ValueError: The values do not have the expected form.
        """
        self.entries = [Finding.from_json(entry).as_json() for entry in state["found"]]
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
        processes: Times of all processes of the job by rank, if there are several; updated after each epoch.
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
    processes: Sequence[ProcessTimes] = ()
    guard: Guard = field(default_factory=lambda: Guard("The training rules"))
    _step: int = 0
    _next_step_time_check: int = 0
    _samples: list[MachineSample] = field(default_factory=list)
    _last_clocks: tuple[float, float, float, float] | None = None

    def begin(self) -> None:
        """Evaluate the rules that apply before the first step."""
        self.guard(self._begin)

    def _begin(self) -> None:
        self.findings.add(check_learning_rates(self.rules, self.setup))
        self.findings.add(check_class_balance(self.class_counts, self.rules, self.setup))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Start measuring the machine's utilization again."""
        del phase
        self._last_clocks = None
        self._step = state.progress.step

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Take the findings of the latest tensor sample."""
        self._step = state.progress.step
        self.guard(self._evaluate_step, state, loss)

    def _evaluate_step(self, state: TrainingState, loss: Tensor) -> None:
        self.findings.add(self.probe.after_step(loss))
        if torch.cuda.is_available() and state.progress.step % _SAMPLE_STEPS == 0:
            self._sample_machine()

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        """Evaluate the rules on the metrics so far and on the machine's utilization."""
        del epoch, row
        self.guard(self._evaluate_epochs, history)

    def _evaluate_epochs(self, history: list[EpochMetrics]) -> None:
        curves = self._curves(history, self._step)
        self.findings.add(check_curves(curves, self.rules))
        if curves.step >= self._next_step_time_check:
            # Takes milliseconds, which is significant for short epochs.
            self._next_step_time_check = curves.step + curves.step // _STEP_TIME_CHECKS
            self.findings.add_timed(check_step_times(self.timing.steps, self.rules, curves.step, curves.setup))
        self.findings.add_timed(check_utilization(self._samples, self.rules, curves.step, curves.setup))
        self.findings.add_timed(check_load_balance(self.processes, self.rules, curves.step, curves.setup))

    def end(self, state: TrainingState) -> None:
        """Take pending findings, evaluate the whole run, and evaluate earlier findings again.

        Call this after the last checkpoint: a job resumed from there has not ended yet.
        """
        self.guard(self._evaluate_run, state)

    def _evaluate_run(self, state: TrainingState) -> None:
        self.findings.add(self.probe.read())
        curves = self._curves(state.history.rows, state.progress.step)
        self.findings.add_timed(check_step_times(self.timing.steps, self.rules, curves.step, curves.setup))
        self.findings.add(check_training(curves, self.baseline_score) if self.rules else [])
        diverged = curves.rows and not math.isfinite(curves.rows[-1]["train:loss"])
        # A finding that stopped the job stays valid.
        if curves.rows and not diverged and not self.findings.stopped:
            self._reevaluate(curves, state)

    def _reevaluate(self, curves: TrainingCurves, state: TrainingState) -> None:
        last_epoch, best = len(state.history.rows) - 1, state.best
        rules, current = set(RECHECKED_RULES), check_curves(curves, self.rules)
        if best.weights and (best.average or best.epoch < last_epoch):
            # The exported weights are from before the overfitting.
            rules.remove("Overfit")
            current = [finding for finding in current if finding.rule != "Overfit"]
            exported = best.average or f"the weights of epoch {best.epoch + 1}, the best one,"
            reason = f"{exported} are exported"
            self.findings.reevaluate(["Overfit"], (), reason)
        self.findings.reevaluate(rules, current, resolution(curves))
        if curves.learned(self.baseline_score) and all(finding.rule != "ExplodingLoss" for finding in current):
            last = resolution(curves).removeprefix("no longer holds ")
            self.findings.reevaluate(["LearningRate"], (), f"the model learned all the same: {last}")
        self.findings.reevaluate(self.probe.refuted, (), "no longer the case in the last sample of the tensors")

    def _curves(self, rows: list[EpochMetrics], step: int) -> TrainingCurves:
        per_epoch = self.steps_per_epoch or max(1, step // max(1, len(rows)))
        # A solved head is no beginning of the curves of fine-tuning, which first leaves it.
        first = 1 if self.setup.strategy == "auto" and len(rows) > 1 else 0
        return TrainingCurves(rows[first:], per_epoch, self.validation_records, self.setup, first)

    def _sample_machine(self) -> None:
        seconds = self.timing.seconds
        busy = seconds["forward"] + seconds["backward"] + seconds["update"]
        clocks = (time.perf_counter(), time.process_time(), busy, seconds["data"])
        if self._last_clocks is not None:
            wall, cpu, gpu, data = (
                100 * (after - before) for after, before in zip(clocks, self._last_clocks, strict=True)
            )
            free, total = torch.cuda.mem_get_info()
            cores = usable_cores()
            sample = MachineSample(
                min(100.0, 100 * gpu / wall), 100 * cpu / wall / cores, 100 * data / wall, 100 * (1 - free / total)
            )
            self._samples.append(sample)
        self._last_clocks = clocks
