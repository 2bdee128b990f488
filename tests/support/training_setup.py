"""A training run of the tiny model, small enough to interrupt at every step."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.config.rules import parse_rules
from finetune.data.bad_records import BadRecords
from finetune.data.pipe.shuffle import StreamPosition
from finetune.distributed.virtual_devices import ONE_DEVICE, VirtualDevices
from finetune.distributed.world import World
from finetune.evaluation.predict import InferenceContext, predict
from finetune.features.phase_inputs import CachedInputProvider
from finetune.features.plan import CachePlan
from finetune.features.reuse.warm_pool import WarmPool
from finetune.job.data.loaders import BadRecordCounts, Loaders
from finetune.monitoring.rules.setup import Setup
from finetune.monitoring.score import BestMetric
from finetune.runtime.precision import choose_numerics
from finetune.strategies.plan import Phase
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.tasks.create import create_task
from finetune.training.build import build_state, build_training
from finetune.training.observers.base import Observers
from finetune.training.observers.rules import Findings, RuleObserver
from finetune.training.saved_state.run_history import RunHistoryFile
from finetune.training.saved_state.state import EpochMetrics, TrainingState
from finetune.training.saved_state.trainable_state import State
from finetune.training.trainer import NoCheckpoints, fit
from tests.support.tiny import TinyBackbone, TinyReader, tiny_batches

CPU = torch.device("cpu")


@dataclass
class Recorder:
    """Records every loss and every row."""

    losses: list[Tensor] = field(default_factory=list)
    rows: list[EpochMetrics] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)

    def epoch_begins(self, state: TrainingState, phase: Phase) -> None:
        self.phases.append(phase)

    def step_done(self, state: TrainingState, loss: Tensor) -> None:
        self.losses.append(loss)

    def epoch_done(self, epoch: int, row: EpochMetrics, history: list[EpochMetrics]) -> None:
        self.rows.append(row)


@dataclass
class TinyTraining:
    """A training run of the tiny model with all its objects."""

    spec: JobSpec
    stop_after: int | None = None
    records: int = 45
    dropout: float = 0.25
    workers: int = 0
    world: World = field(default_factory=World)
    devices: VirtualDevices = ONE_DEVICE
    best_metric: BestMetric = field(default_factory=BestMetric)

    def __post_init__(self) -> None:
        self.backbone = TinyBackbone(dropout=self.dropout)
        names = tuple(group.name for group in self.backbone.layer_groups())
        plan = make_plan(
            self.spec.strategy, self.spec.optimization, ModelStructure(names, "image-classification", True)
        )
        size = self.spec.optimization.batch_size
        self.batches = tiny_batches(
            TinyReader(self.records),
            training=True,
            batch_size=size,
            seed=self.spec.run.seed,
            workers=self.workers,
            balanced=self.spec.recipes.sampler == "balanced",
        )
        self.task = create_task(self.batches.label_map)
        validation = tiny_batches(TinyReader(30, "validation"), training=False)
        numerics = choose_numerics("fp32", CPU)
        loaders = Loaders(self.batches, validation, None, None, BadRecordCounts())
        frozen = CachePlan(self.backbone, plan, self.spec, numerics)
        self.inputs = CachedInputProvider(frozen, loaders, Path(tempfile.gettempdir()), WarmPool(None))
        history, bad_records, rules = RunHistoryFile(None), BadRecordCounts(), parse_rules(self.spec.observe.rules)
        bad_records["train"] = BadRecords("train", 0)
        self.findings = Findings(history.account, stops=False)
        self.training = build_training(
            self.spec,
            self.backbone,
            plan,
            self.inputs,
            numerics,
            task=self.task,
            evaluate=self.evaluate,
            interrupted=self.interrupted,
            setup=Setup(),
            world=self.world,
            devices=self.devices,
            sharded=None,
            bad_records=bad_records,
            best_metric=self.best_metric,
        )
        self.state = build_state(
            self.training, bad_records=bad_records, account=history, stream=StreamPosition(), findings=self.findings
        )
        self.recorder = Recorder()
        self.rules = RuleObserver(
            probe=self.training.stepper.probe,
            timing=self.training.stepper.timing,
            rules=rules,
            findings=self.findings,
            steps_per_epoch=self.training.schedule.steps_per_epoch,
            validation_records=30,
        )

    def interrupted(self) -> bool:
        return self.stop_after is not None and self.state.progress.step >= self.stop_after

    def evaluate(self) -> EpochMetrics | None:
        validation = self.inputs.validation()
        assert validation is not None
        evaluation_pass = InferenceContext(CPU, self.training.stepper.numerics.context, lambda: False, self.world)
        evaluated = predict(self.backbone, validation.source, evaluation_pass, self.task, validation.forward)
        assert evaluated is not None
        return self.world.broadcast(
            evaluated.validation_row(self.task, self.best_metric.name) if self.world.is_main else {}
        )

    def fit(self) -> bool:
        return fit(self.training, self.state, Observers([self.recorder, self.rules]), NoCheckpoints())

    def saved(self) -> dict[str, State]:
        return {name: copy.deepcopy(part.state_dict()) for name, part in self.state.parts().items()}

    def load(self, saved: dict[str, State]) -> None:
        self.state.load(copy.deepcopy(saved))


def request(**hyperparameters: str) -> JobSpec:
    return parse_hyperparameters({"epochs": "3", "batch_size": "8", "seed": "7", **hyperparameters})
