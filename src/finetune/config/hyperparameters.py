"""All hyperparameters: name, type, range, default and one line of help, in one section per stage of the job.

Each stage receives its checked section. If a field and its hyperparameter have different names, the alias is the name
of the hyperparameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from finetune.config.dialects.dialect import AppliedDialect, DialectName
from finetune.config.optimizers import OPTIMIZERS, OptimizerName, join_names, optimizers_using
from finetune.config.recipes import RecipeSpec
from finetune.config.section import Section

TaskName = Literal["image-classification", "text-classification"]
ProblemType = Literal["single_label_classification", "multi_label_classification"]
"""Meaning of the outputs of a model, in the terms of transformers."""
StrategyName = Literal["auto", "feature_extraction", "partial", "full", "gradual", "from_scratch", "evaluate"]
ScheduleName = Literal["constant", "step", "exponential", "cosine", "linear"]
Augmentation = Literal["none", "basic", "strong", "trivial"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
RecordParts = Literal["auto", "escaped", "plain"]
Resume = Literal["auto", "never", "required"]
RuleAction = Literal["log", "stop"]
BestMetricName = Literal["auto", "accuracy", "macro_f1", "micro_f1", "loss", "auc", "target", "none"]
HeadSolverName = Literal["auto", "lbfgs", "sgd"]


class DataSpec(Section):
    """Data: records and their conversion to examples."""

    task: TaskName | None = Field(None, description="Task; detected from the data by default.")
    multi_label: bool = Field(False, description="Whether a record may have several labels, or none.")
    label_column: str | None = Field(
        None, description="Label column of tables; detected from names and content by default."
    )
    text_column: str | None = Field(
        None, description="Text column of tables; detected from names and content by default."
    )
    text_pair_column: str | None = Field(None, description="Column of the second text, for text pairs.")
    header: Literal["auto", "true", "false"] = Field(
        "auto", description="Whether CSV and TSV files begin with a header row; detected from the data by default."
    )
    validation_fraction: float = Field(
        0.2,
        ge=0,
        le=0.9,
        description="Fraction of `train` held out for validation if there is no `validation` channel: stratified by "
        "class, random in Pipe mode.",
    )
    max_bad_records: int = Field(0, ge=0, description="Number of unreadable records to tolerate before the job fails.")
    augmentation: Augmentation = Field(
        "basic",
        description="Augmentation of training images: crop and flip (basic), plus color and geometry (strong) or one "
        "operation of TrivialAugment (trivial).",
    )
    image_size: int | None = Field(
        None, ge=8, le=4096, description="Input image size in pixels; by default that of the model."
    )
    max_length: int | None = Field(
        None, ge=4, le=1_048_576, description="Maximum text length in tokens; by default the limit of the model."
    )
    group_by_length: bool = Field(
        True,
        description="Whether to batch texts of similar length, which reduces padding; the order of batches stays "
        "random.",
    )
    num_classes: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Expected number of classes, checked against the data; in Pipe mode they are 0, 1, 2 and so on.",
    )
    num_training_samples: int | None = Field(
        None,
        ge=1,
        description="Expected number of records in `train`; in Pipe mode it avoids a pass that counts them.",
    )
    image_column: str | None = Field(
        None, description="Feature, attribute or file extension of the image in a stream; detected by default."
    )
    attribute_names: tuple[str, ...] = Field(
        (),
        description="AttributeNames of an augmented manifest, such as `source-ref,class`; the platform does not pass "
        "them to the job.",
    )
    class_names: tuple[str, ...] = Field(
        (),
        description="Class names in the order of their indices, unless the `labels` channel has them; in Pipe mode "
        "they avoid a pass that collects them. Also confirms image folders that look like splits of a dataset.",
    )
    shuffle_buffer: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Size of the shuffle buffer of a stream, in records; 1 keeps the order.",
    )
    recordio_parts: RecordParts = Field(
        "auto",
        description="Whether the RecordIO writer split payloads at magic words (escaped) or kept them (plain).",
    )

    @property
    def problem_type(self) -> ProblemType:
        """Meaning of the outputs of the model."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"


class ModelSpec(Section):
    """Model: the pretrained model and its head."""

    name: str | None = Field(
        None,
        alias="model_name",
        description="Model, such as resnet50, timm/NAME or distilbert-base-uncased; by default the one in the `model` "
        "channel, otherwise a default for the task.",
    )
    reinitialize_top_layer: Literal["auto", "true", "false"] = Field(
        "auto",
        description="Whether to initialize a new head; auto keeps a head with the same classes, or with the same "
        "number of unnamed classes.",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout before the head during training; by default that of the model."
    )


class StrategySpec(Section):
    """Strategy: the trainable layers and their relative learning rates."""

    name: StrategyName = Field(
        "auto",
        alias="strategy",
        description="Trainable layers: all (full), the head only (feature_extraction, cheapest and often best with "
        "few records per class), the last layer groups as well (partial), one more group at a time (gradual), all "
        "from random weights (from_scratch), none (evaluate). auto solves the head, then fine-tunes from it if the "
        "data suggest it, and exports what is best on validation. Without a strategy, a request that sets epochs, a "
        "learning rate or another hyperparameter of gradient steps gets full. See docs/decisions/auto-strategy.md.",
    )
    unfrozen_groups: int = Field(
        1, ge=1, le=1000, description="For `partial`: number of trainable layer groups below the head."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Learning rate factor from each layer group to the one below it."
    )
    head_solver: HeadSolverName = Field(
        "auto",
        description="For `feature_extraction`: solve the head by L-BFGS with a cross-validated regularization strength "
        "(lbfgs) or train it in epochs of gradient steps (sgd). auto solves it unless a hyperparameter is set that "
        "only gradient steps use, such as epochs, or the features cannot be kept.",
    )

    @property
    def trains(self) -> bool:
        """Whether any layer is trained."""
        return self.name != "evaluate"

    @property
    def trains_head_only(self) -> bool:
        """Whether only the head is trained."""
        return self.name == "feature_extraction"

    @property
    def never_takes_steps(self) -> bool:
        """Whether the head is solved on request, so that hyperparameters of gradient steps have no effect."""
        return self.trains_head_only and self.head_solver == "lbfgs"

    @property
    def uses_pretrained_weights(self) -> bool:
        """Whether the model starts from pretrained weights."""
        return self.name != "from_scratch"


def _optimizer_names(option: str) -> str:
    return join_names(optimizers_using(option))


def _default_momentum() -> str:
    return ", ".join(
        f"{OPTIMIZERS[name].momentum:g} for {name}" for name in OPTIMIZERS if "momentum" in OPTIMIZERS[name].uses
    )


def _default_rho() -> str:
    return ", ".join(f"{info.rho:g} for {name}" for name, info in OPTIMIZERS.items() if "rho" in info.uses)


class OptimizationSpec(Section):
    """Optimization: epochs, batches, optimizer and learning rate schedule."""

    epochs: int = Field(10, ge=1, le=100_000, description="Number of epochs.")
    max_steps: int | None = Field(
        None, ge=1, description="Number of optimizer steps, instead of epochs; the last epoch may end early."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Batch size.")
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Peak learning rate; the default depends on strategy, task and optimizer."
    )
    head_learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Peak learning rate of the head; the default depends on the strategy, and is 10 times "
        "learning_rate for a new head on trainable layers.",
    )
    optimizer: OptimizerName = Field("adamw", description="Optimizer.")
    momentum: float | None = Field(None, ge=0, lt=1, description=f"Momentum; by default {_default_momentum()}.")
    beta_1: float = Field(
        0.9, ge=0, lt=1, description=f"Decay rate of the gradient's moving average, for {_optimizer_names('beta_1')}."
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        lt=1,
        description=f"Decay rate of the squared gradient's moving average, for {_optimizer_names('beta_2')}.",
    )
    rho: float | None = Field(
        None,
        ge=0,
        lt=1,
        description=f"Decay rate of the squared gradient's moving average; by default {_default_rho()}.",
    )
    initial_accumulator_value: float = Field(
        0.0, ge=0, description=f"Initial sum of squared gradients, for {_optimizer_names('initial_accumulator_value')}."
    )
    eps: float = Field(
        1e-8,
        gt=0,
        le=1,
        description=f"Added to the denominator for numerical stability, for {_optimizer_names('eps')}.",
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, description="Weight decay (not applied to biases and normalization layers)."
    )
    lr_schedule: ScheduleName = Field("cosine", description="Learning rate schedule after warm-up.")
    lr_step_epochs: tuple[int, ...] = Field(
        (),
        description="For lr_schedule=step: epochs after which the learning rate is multiplied by lr_factor, such as "
        "`10,20`.",
    )
    lr_factor: float = Field(
        0.1,
        gt=0,
        le=1,
        description="For step: factor at each of lr_step_epochs; for exponential: factor at the end of training.",
    )
    warmup_fraction: float = Field(
        0.05, ge=0, lt=1, description="Fraction of all steps used for learning rate warm-up."
    )
    warmup_steps: float | None = Field(
        None,
        ge=0,
        description="Number of warm-up steps, instead of warmup_fraction; below 1, a fraction of all steps.",
    )
    gradient_clip_norm: float | None = Field(
        None, gt=0, description="Maximum gradient norm over all parameters; larger gradients are clipped."
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=10_000, description="Number of batches to accumulate gradients over per optimizer step."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing.")
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(ge=0)]] = Field(
        "none",
        description="Class weights in the loss: balanced weights are inversely proportional to class frequencies; "
        'others are given as `{"cat": 2, "dog": 0.5}`, where classes that are left out have weight 1.',
    )
    best_metric: BestMetricName = Field(
        "auto",
        description="Validation metric of the best epoch, which is exported: target is the recall at target_precision, "
        "or the reverse; none exports the last epoch. See docs/best-epoch.md for auto.",
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Number of epochs without improvement of best_metric after which training stops; off by default.",
    )
    early_stopping_min_delta: float = Field(
        0.0, ge=0, description="Minimum improvement of best_metric that counts for early_stopping_patience."
    )
    early_stopping_min_epochs: int = Field(0, ge=0, description="Minimum number of epochs before early stopping.")


class RunSpec(Section):
    """Run: dialect, seed, precision and data loading."""

    dialect: Literal["auto", "none", DialectName] = Field(
        "auto",
        description="Tool whose defaults apply and whose metric lines and answers are added: the one that the names of "
        "the request identify (auto), none, or a named one. See docs/migration.md.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed.")
    precision: Precision = Field(
        "auto",
        description="Precision: auto is bf16 on GPUs and CPUs with bf16 instructions, fp16 on older GPUs, otherwise "
        "fp32.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Number of data loading threads; by default as many as needed to keep the device busy, up to the "
        "number of cores, at most 16. Does not change the result.",
    )
    compile: bool = Field(
        False,
        description="Whether to compile the trainable layers (images only); worthwhile for jobs of hours, and needs "
        "a C++ compiler, which is not part of the image.",
    )
    top_k: int | None = Field(None, ge=2, description="Also report top-k accuracy.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Minutes after which no further epoch begins, counted over all starts of the job; the best model "
        "so far is exported. An epoch that would probably end later is not begun either. The only hyperparameter with "
        "which the result depends on the clock.",
    )
    pipe_wait_seconds: float = Field(
        600.0, gt=0, description="Seconds without data after which a channel in Pipe mode fails."
    )


class DistributedSpec(Section):
    """Devices: processes, the shards of a batch that they compute, and the exactness of the result."""

    processes_per_host: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Number of processes on each host; by default one for each GPU, and one on a host without GPUs.",
    )
    virtual_devices: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Number of shards into which every batch is divided. By default the number of processes at the "
        "first start, kept in checkpoints. The result depends on it, but not on the number of processes, which may "
        "change when a job is resumed.",
    )
    distributed_order: Literal["exact", "fast"] = Field(
        "exact",
        description="Order in which gradients of several processes are added: exact gives the same result for any "
        "number of processes; fast leaves the order to the all-reduce of the communication library.",
    )
    sharding: Literal["auto", "none", "full"] = Field(
        "auto",
        description="Whether the trainable parameters, their gradients and the optimizer state are divided among the "
        "devices (full) or whole on each of them (none). With auto, a job on GPUs chooses the first of these that fits "
        "into device memory: none, activation_checkpointing, full, both; a job on CPUs uses none. Does not change the "
        "result.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Whether to store only the inputs of each layer group in the forward pass and to compute its "
        "activations again in the backward pass: takes less device memory and more time. Does not change the result.",
    )
    out_of_memory: Literal["halve_batch", "fail"] = Field(
        "halve_batch",
        description="What a job of one process does if its device runs out of memory in training: start again with "
        "half the batch_size and twice the gradient_accumulation_steps, or fail.",
    )
    deterministic: bool = Field(
        False,
        description="Whether to use only GPU kernels that give the same bits in every run; slower for some models. On "
        "CPUs all kernels do.",
    )


class CheckpointSpec(Section):
    """Checkpoints: saving and resuming the state of the job."""

    resume: Resume = Field(
        "auto", description="Whether to resume: from a checkpoint if there is one (auto), never, or required."
    )
    interval_steps: int | None = Field(
        None,
        ge=1,
        alias="checkpoint_interval_steps",
        description="Steps between checkpoints; by default checkpoints are by time only.",
    )
    interval_seconds: float | None = Field(
        30.0, gt=0, alias="checkpoint_interval_seconds", description="Minimum seconds between checkpoints by time."
    )
    keep: int = Field(
        2, ge=1, le=1000, alias="checkpoint_keep", description="Number of most recent checkpoints to keep."
    )
    s3_uri: str | None = Field(
        None,
        alias="checkpoint_s3_uri",
        pattern=r"^s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?$",
        description="Additional S3 location of checkpoints, for containers outside the platform, which syncs its own.",
    )


class FeatureSpec(Section):
    """Features: outputs of frozen layers, computed once instead of in every epoch."""

    cache: Literal["auto", "off"] = Field(
        "auto",
        alias="feature_cache",
        description="Whether to cache outputs of frozen layers; with off, every epoch augments the images and "
        "computes the outputs again.",
    )
    views: int | None = Field(
        None,
        ge=1,
        le=1000,
        alias="augmentation_views",
        description="Number of cached augmented views per image when layers are frozen; epochs cycle through them. "
        "The default 1 is the image without augmentation; where augmentation helps, 8 views were as good as a new "
        "one in each epoch.",
    )
    size_gb: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        alias="cache_size_gb",
        description="Maximum size of cached features or decoded images in GB; the rest is computed or decoded again. "
        "By default half of the free memory, then half of the free disk. Does not change the result.",
    )


class ObserveSpec(Section):
    """Monitoring: rules, thresholds and cost; none of it changes the weights."""

    rules: str | None = Field(
        "all",
        description="Rules that monitor the job: all, None, or comma-separated names with optional parameters, such "
        "as `Overfit:patience=3:ratio_threshold=0.2`. See docs/rules.md.",
    )
    rule_action: RuleAction = Field(
        "log", description="Action of a rule with a finding: log it, or also stop the job and export the model."
    )
    target_precision: float | None = Field(
        None, gt=0, lt=1, description="For two classes or multi_label: minimum precision on validation, of the "
        "second class or of each label, by which decision thresholds are chosen."
    )  # fmt: skip
    target_recall: float | None = Field(
        None, gt=0, lt=1, description="For two classes or multi_label: minimum recall instead of a precision."
    )
    price_per_hour: float | None = Field(
        None, ge=0, description="Hourly price of the instance, for the cost in the report."
    )


SECTIONS: tuple[type[Section], ...] = (
    DataSpec,
    ModelSpec,
    StrategySpec,
    OptimizationSpec,
    RecipeSpec,
    RunSpec,
    DistributedSpec,
    CheckpointSpec,
    FeatureSpec,
    ObserveSpec,
)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """All checked hyperparameters of a request.

    Attributes:
        data: which records are used, and how they are preprocessed.
        model: pretrained model and its head.
        strategy: trainable layers and their relative learning rates.
        optimization: optimizer, learning rates and schedule.
        recipes: regularization and losses.
        run: execution and reported metrics.
        distributed: processes and shards of batches.
        checkpoint: saving and resuming.
        features: caching of frozen layer outputs.
        observe: monitoring and reporting.
        notes: one sentence for each hyperparameter that was translated or ignored, with the reason; for the log.
        set_by_user: names of the hyperparameters that the user set, without those that `notes` reports as unused.
        objective: objective metric of a tuner; `None` outside a tuning job.
        dialect: the tool whose defaults apply; `None` for those of this project.
        strategy_reason: reason for the strategy, as a clause for the plan; empty if the user set it.
        halvings: how often the batch was halved after the device ran out of memory, included in `optimization`.
    """

    data: DataSpec
    model: ModelSpec
    strategy: StrategySpec
    optimization: OptimizationSpec
    recipes: RecipeSpec
    run: RunSpec
    distributed: DistributedSpec
    checkpoint: CheckpointSpec
    features: FeatureSpec
    observe: ObserveSpec
    notes: tuple[str, ...] = ()
    set_by_user: frozenset[str] = field(default=frozenset(), compare=False)
    objective: str | None = None
    dialect: AppliedDialect | None = field(default=None, compare=False)
    strategy_reason: str = field(default="", compare=False)
    halvings: int = 0
