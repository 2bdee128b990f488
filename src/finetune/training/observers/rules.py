"""Lets the rules look at a job: gathers what they need, tells what they find, and stops the job where that is asked."""

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
    JUDGED_AGAIN,
    Course,
    judge_balance,
    judge_curves,
    resolution,
)
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.machine import Sample, judge_machine, judge_steps
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.rules.symptoms import symptoms
from finetune.monitoring.timing import Timing
from finetune.runtime.optional import Guard
from finetune.strategies.plan import Phase
from finetune.training.probe import Probe
from finetune.training.run_history import Account
from finetune.training.state import Row, TrainingState
from finetune.training.trainer import Observer

logger = logging.getLogger(__name__)

_SAMPLE_STEPS = 10
_LOOKS = 10
"""Steps are compared again when there are a tenth more."""


@dataclass(slots=True)
class Findings:
    """What was found, each rule once in the whole job, whatever interrupted it.

    Findings about tensors, curves and classes are functions of the step: a part of the checkpoint, the same in a job
    that was interrupted. Those by the clock tell of machines, each of which is another one: they are in the account.

    Attributes:
        account: of all starts.
        stops: whether a finding asks the job to stop.
        stopped: whether one did.
        found: all but those by the clock, as JSON values.
    """

    account: Account
    stops: bool
    stopped: bool = False
    found: list[dict[str, object]] = field(default_factory=list)

    def take(self, found: Iterable[Finding]) -> None:
        """Tell what is new of what follows from the step."""
        self._tell(found, self.found)

    def take_timed(self, found: Iterable[Finding]) -> None:
        """Tell what is new of what was found by the clock."""
        self._tell(found, self.account.machine_findings)

    def judge_again(self, rules: Collection[str], holding: Iterable[Finding], reason: str) -> None:
        """At the end, mark earlier findings of some rules as resolved unless they still hold.

        Args:
            rules: whose findings are judged again.
            holding: findings at the end, which replace the earlier ones.
            reason: why the others no longer hold.
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
        """Plain values."""
        return {"found": [dict(one) for one in self.found], "stopped": self.stopped}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take up plain values; a job that a rule has stopped stays so, unless rules may no longer stop it.

        Raises:
            ValueError: they are not of this form.
        """
        self.found = [Finding.of_json(one).as_json() for one in state["found"]]
        self.stopped = self.stops and bool(state["stopped"])


@dataclass(frozen=True, slots=True)
class Watched:
    """What the rules look at, beside tensors.

    Attributes:
        steps_per_epoch: optimizer steps, 0 where only the stream knows.
        validated: records of validation.
        counts: training records by class; empty where they are unknown.
        guess: score of the best constant answer on the training records.
        setup: of the job, for advice that fits it.
    """

    steps_per_epoch: int
    validated: int
    counts: Mapping[str, int] = field(default_factory=dict)
    guess: float = 0.0
    setup: Setup = field(default_factory=Setup)


@dataclass(slots=True)
class RuleObserver:
    """An observer that passes everything on, and lets the rules look at it."""

    inner: Observer
    probe: Probe
    timing: Timing
    rules: Rules
    watched: Watched
    findings: Findings
    guard: Guard = field(default_factory=lambda: Guard("Watching by rules"))
    _step: int = 0
    _next_look: int = 0
    _samples: list[Sample] = field(default_factory=list)
    _mark: tuple[float, float, float, float] | None = None

    def begin(self) -> None:
        """What can be said before the first step."""
        self.guard(self._begin)

    def _begin(self) -> None:
        self.findings.take(judge_balance(self.watched.counts, self.rules, self.watched.setup))

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        """Pass it on."""
        self._mark = None
        self._step = state.progress.step
        self.inner.epoch_begins(state, phase)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        """Pass it on, and read what the last look at the tensors showed."""
        self.inner.step_done(state, loss)
        self._step = state.progress.step
        self.guard(self._look_at_step, state, loss)

    def _look_at_step(self, state: TrainingState, loss: Tensor) -> None:
        self.findings.take(self.probe.updated(loss))
        if torch.cuda.is_available() and state.progress.step % _SAMPLE_STEPS == 0:
            self._sample()

    def epoch_done(self, epoch: int, row: Row, history: list[Row]) -> None:
        """Look at the epochs up to now, and at the machine."""
        self.inner.epoch_done(epoch, row, history)
        self.guard(self._look_at_epochs, history)

    def _look_at_epochs(self, history: list[Row]) -> None:
        course = self._course(history, self._step)
        self.findings.take(judge_curves(course, self.rules))
        if course.step >= self._next_look:
            # It takes milliseconds, as short epochs do.
            self._next_look = course.step + course.step // _LOOKS
            self.findings.take_timed(judge_steps(self.timing.steps, self.rules, course.step, course.setup))
        self.findings.take_timed(judge_machine(self._samples, self.rules, course.step, course.setup))

    def end(self, state: TrainingState) -> None:
        """Read what still waits, look at the whole course, and judge findings of the middle again.

        After the last checkpoint: a job that goes on from there has not come to its end.
        """
        self.guard(self._look_at_all, state)

    def _look_at_all(self, state: TrainingState) -> None:
        self.findings.take(self.probe.read())
        course = self._course(state.history.rows, state.progress.step)
        self.findings.take_timed(judge_steps(self.timing.steps, self.rules, course.step, course.setup))
        self.findings.take(symptoms(course, self.watched.guess) if self.rules else [])
        diverged = course.rows and not math.isfinite(course.rows[-1]["train:loss"])
        # What a rule has stopped the job for holds.
        if course.rows and not diverged and not self.findings.stopped:
            self._judge_again(course, state)

    def _judge_again(self, course: Course, state: TrainingState) -> None:
        last, best = len(course.rows) - 1, state.best
        rules, holding = set(JUDGED_AGAIN), judge_curves(course, self.rules)
        if best.weights and best.epoch < last:
            # The exported weights are older than the overfitting.
            rules.remove("Overfit")
            holding = [one for one in holding if one.rule != "Overfit"]
            reason = f"the weights of epoch {best.epoch + 1}, the best one, are exported"
            self.findings.judge_again(["Overfit"], (), reason)
        self.findings.judge_again(rules, holding, resolution(course))
        self.findings.judge_again(self.probe.refuted, (), "no longer the case in the last look at the tensors")

    def _course(self, rows: list[Row], step: int) -> Course:
        per_epoch = self.watched.steps_per_epoch or max(1, step // max(1, len(rows)))
        return Course(rows, per_epoch, self.watched.validated, self.watched.setup)

    def _sample(self) -> None:
        seconds = self.timing.seconds
        busy = seconds["forward"] + seconds["backward"] + seconds["update"]
        now = (time.perf_counter(), time.process_time(), busy, seconds["data"])
        if self._mark is not None:
            wall, cpu, gpu, data = (100 * (after - before) for after, before in zip(now, self._mark, strict=True))
            free, total = torch.cuda.mem_get_info()
            cores = len(os.sched_getaffinity(0))
            sample = Sample(
                min(100.0, 100 * gpu / wall), 100 * cpu / wall / cores, 100 * data / wall, 100 * (1 - free / total)
            )
            self._samples.append(sample)
        self._mark = now
