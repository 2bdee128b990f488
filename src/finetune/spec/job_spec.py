"""What a job was asked for, after every check: frozen, in one section per stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["image-classification", "text-classification"]
StrategyName = Literal["feature_extraction", "partial", "full", "gradual", "from_scratch", "evaluate"]
OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop", "nag"]
ScheduleName = Literal["constant", "step", "exponential", "cosine", "linear"]
Augmentation = Literal["none", "basic", "strong"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
RecordParts = Literal["auto", "escaped", "plain"]
Resume = Literal["auto", "never", "required"]
RuleAction = Literal["log", "stop"]


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Which records, and how they become examples. `None` means: seen from the data or taken from the network."""

    task: Task | None
    multi_label: bool
    label_column: str | None
    text_column: str | None
    text_pair_column: str | None
    header: Literal["auto", "true", "false"]
    validation_fraction: float
    max_bad_records: int
    augmentation: Augmentation
    image_size: int | None
    max_length: int | None
    num_classes: int | None
    num_training_samples: int | None
    image_column: str | None = None
    attribute_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    shuffle_buffer: int = 2048
    recordio_parts: RecordParts = "auto"
    group_by_length: bool = True


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which network, and what becomes of its head."""

    name: str | None
    reinitialize_top_layer: Literal["auto", "true", "false"]
    dropout: float | None


@dataclass(frozen=True, slots=True)
class StrategySpec:
    """What learns, and how fast the layers learn relative to each other."""

    name: StrategyName
    unfrozen_groups: int
    layer_decay: float


@dataclass(frozen=True, slots=True)
class OptimisationSpec:
    """How it learns. `None` means: the default that belongs to strategy and optimizer."""

    epochs: int
    batch_size: int
    learning_rate: float | None
    head_learning_rate: float | None
    optimizer: OptimizerName
    momentum: float | None
    beta_1: float
    beta_2: float
    eps: float
    weight_decay: float
    lr_schedule: ScheduleName
    lr_step_epochs: tuple[int, ...]
    lr_factor: float
    warmup_fraction: float
    gradient_clip_norm: float | None
    gradient_accumulation_steps: int
    label_smoothing: float
    class_weights: Literal["none", "balanced"]
    early_stopping_patience: int | None
    early_stopping_min_delta: float
    early_stopping_min_epochs: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What changes how the job runs but not what it computes, except for the seed and the precision."""

    seed: int
    precision: Precision
    workers: int | None
    top_k: int | None
    pipe_wait_seconds: float = 600.0
    compile: bool = False


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What becomes of the outputs of frozen layers.

    Attributes:
        cache: whether they are kept (auto), or computed anew in every epoch, from pictures varied anew.
        views: variations of every picture that epochs take turns with; 1 for none; `None`: by strategy.
        size_gb: most that is kept, in memory and on disk together; `None`: by what is free.
    """

    cache: Literal["auto", "off"]
    views: int | None
    size_gb: float | None


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """When the state of the job is kept, where besides the checkpoint folder, and whether it is taken up again.

    Attributes:
        interval_steps: optimizer steps between two checkpoints; `None` for none by steps.
        interval_seconds: least seconds between two checkpoints; `None` for none by time.
        keep: newest complete checkpoints that are kept beside the best.
        s3_uri: `s3://bucket/prefix` for a container that no platform synchronises.
    """

    resume: Resume
    interval_steps: int | None
    interval_seconds: float | None
    keep: int
    s3_uri: str | None


@dataclass(frozen=True, slots=True)
class ObserveSpec:
    """What is looked at while the job runs, and what becomes of it; nothing of it changes a weight.

    Attributes:
        rules: as the user wrote it, see `spec.rules`.
        target_precision: least precision on validation of the positive class, or of each label.
        target_recall: least recall likewise.
        price_per_hour: of the instance, in any currency.
    """

    rules: str | None
    rule_action: RuleAction
    target_precision: float | None
    target_recall: float | None
    price_per_hour: float | None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The whole request.

    Attributes:
        notes: one sentence for each hyperparameter that was translated, or ignored and why; for the log.
        given: names of the hyperparameters that the user set, without those that the notes tell to have no effect.
        objective: the metric that a tuner judges the job by; `None` outside a tuning job.
    """

    data: DataSpec
    model: ModelSpec
    strategy: StrategySpec
    optimisation: OptimisationSpec
    run: RunSpec
    checkpoint: CheckpointSpec
    features: FeatureSpec
    observe: ObserveSpec
    notes: tuple[str, ...] = ()
    given: frozenset[str] = field(default=frozenset(), compare=False)
    objective: str | None = None
