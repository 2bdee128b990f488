"""All hyperparameters: name, type, range, default and one line of help, in one section per stage of the job.

Each stage receives its checked section. If a field and its hyperparameter have different names, the alias is the name
of the hyperparameter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from finetune.config.optimizers import OPTIMIZERS, OptimizerName, in_words, optimizers_with
from finetune.config.values import form_of, read_value

Task = Literal["image-classification", "text-classification"]
StrategyName = Literal["feature_extraction", "partial", "full", "gradual", "from_scratch", "evaluate"]
ScheduleName = Literal["constant", "step", "exponential", "cosine", "linear"]
Augmentation = Literal["none", "basic", "strong"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
RecordParts = Literal["auto", "escaped", "plain"]
Resume = Literal["auto", "never", "required"]
RuleAction = Literal["log", "stop"]


class Section(BaseModel):
    """Hyperparameters of one stage of the job; values may be given as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def read(cls, value: object, info: ValidationInfo) -> object:
        """Convert text to the field's type, so that only ranges remain to be checked."""
        if not isinstance(value, str):
            return value
        return read_value(value, form_of(cls.model_fields[str(info.field_name)].annotation))


class DataSpec(Section):
    """Data: which records, and how they become examples."""

    task: Task | None = Field(None, description="What the records are; by default seen from the data.")
    multi_label: bool = Field(False, description="Whether a record may have several classes, or none.")
    label_column: str | None = Field(
        None, description="Column of the label in tables; by default seen from names and content."
    )
    text_column: str | None = Field(
        None, description="Column of the text in tables; by default seen from names and content."
    )
    text_pair_column: str | None = Field(None, description="Column of the second text, for pairs of texts.")
    header: Literal["auto", "true", "false"] = Field(
        "auto", description="Whether the first row of CSV and TSV names the columns; by default seen from the data."
    )
    validation_fraction: float = Field(
        0.2,
        ge=0,
        le=0.9,
        description="Share of `train` that is held out without a `validation`: class by class, in Pipe mode by chance.",
    )
    max_bad_records: int = Field(0, ge=0, description="Records that may be unreadable before the job fails.")
    augmentation: Augmentation = Field(
        "basic", description="Random changes to training images: crop and flip (basic), also colour and shape (strong)."
    )
    image_size: int | None = Field(
        None, ge=8, le=4096, description="Side of the image that enters the network, in pixels; by default its own."
    )
    max_length: int | None = Field(
        None, ge=4, le=1_048_576, description="Longest text in tokens; by default what the network can take."
    )
    group_by_length: bool = Field(
        True,
        description="Whether texts of like length share a batch, which saves computing padding; batches stay random.",
    )
    num_classes: int | None = Field(
        None,
        ge=2,
        le=100_000,
        description="Number of classes that the data must have; in Pipe mode they are 0, 1, 2 and so on.",
    )
    num_training_samples: int | None = Field(
        None,
        ge=1,
        description="Number of records that `train` must have; in Pipe mode it saves a pass that counts them.",
    )
    image_column: str | None = Field(
        None, description="Feature, attribute or ending that holds the picture in a stream; by default guessed."
    )
    attribute_names: tuple[str, ...] = Field(
        (),
        description="AttributeNames of an augmented manifest, as `source-ref,class`; the platform does not tell them.",
    )
    class_names: tuple[str, ...] = Field(
        (),
        description="Names of the classes in the order of their numbers, unless a channel `labels` has them; in Pipe "
        "mode it saves a pass that looks. Confirms image folders that look like parts of a data set.",
    )
    shuffle_buffer: int = Field(
        2048,
        ge=1,
        le=1_000_000,
        description="Records of a stream among which the next one is drawn; 1 keeps the order.",
    )
    recordio_parts: RecordParts = Field(
        "auto", description="Whether writers of RecordIO left the magic word out (escaped) or not (plain)."
    )


class ModelSpec(Section):
    """Model: which network, and what becomes of its head."""

    name: str | None = Field(
        None,
        alias="model_name",
        description="Network, such as resnet50 or distilbert-base-uncased; by default that of the `model` channel, "
        "else one for the task.",
    )
    reinitialize_top_layer: Literal["auto", "true", "false"] = Field(
        "auto", description="Whether the head is new; auto keeps one of the same classes, or of as many without names."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout before the head while it learns; by default the network's own."
    )


class StrategySpec(Section):
    """Strategy: what learns, and how fast the layers learn relative to each other."""

    name: StrategyName = Field(
        "full",
        alias="strategy",
        description="What learns: all layers (full), the head alone (feature_extraction, cheapest and often best with "
        "a few records per class), the last groups too (partial), group after group (gradual), random weights "
        "(from_scratch), nothing (evaluate). `full`, since that is what the platform's built-ins do.",
    )
    unfrozen_groups: int = Field(
        1, ge=1, le=1000, description="For `partial`: how many groups of layers below the head learn with it."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the rate from each group of layers to the one below it."
    )


def _users_of(option: str) -> str:
    return in_words(optimizers_with(option))


def _default_momentum() -> str:
    return ", ".join(
        f"{OPTIMIZERS[name].momentum:g} for {name}" for name in OPTIMIZERS if "momentum" in OPTIMIZERS[name].uses
    )


class OptimisationSpec(Section):
    """Optimisation: how the layers learn."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training data.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Records per batch.")
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Highest learning rate; by default what suits strategy and optimizer."
    )
    head_learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Highest learning rate of the head; by default what suits the strategy, and 10 times learning_rate "
        "for a new head on layers that learn too.",
    )
    optimizer: OptimizerName = Field("adamw", description="Optimizer.")
    momentum: float | None = Field(None, ge=0, lt=1, description=f"Momentum; by default {_default_momentum()}.")
    beta_1: float = Field(
        0.9, ge=0, lt=1, description=f"Decay rate of the gradient's moving average, for {_users_of('beta_1')}."
    )
    beta_2: float = Field(
        0.999,
        ge=0,
        lt=1,
        description=f"Decay rate of the squared gradient's moving average, for {_users_of('beta_2')}.",
    )
    eps: float = Field(
        1e-8, gt=0, le=1, description=f"Added to the denominator for numerical stability, for {_users_of('eps')}."
    )
    weight_decay: float = Field(0.01, ge=0, le=1, description="Pull towards zero; none on biases and normalisation.")
    lr_schedule: ScheduleName = Field("cosine", description="Course of the learning rate after the warm-up.")
    lr_step_epochs: tuple[int, ...] = Field(
        (), description="For lr_schedule=step: epochs after which the rate is multiplied by lr_factor, as `10,20`."
    )
    lr_factor: float = Field(
        0.1, gt=0, le=1, description="For step: factor at each of lr_step_epochs; for exponential: reached at the end."
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of all steps in which the rate rises.")
    gradient_clip_norm: float | None = Field(
        None, gt=0, description="Longest gradient over all parameters; longer ones are shortened to it."
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=10_000, description="Batches whose gradients make one step of the optimizer."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each target that is spread over classes.")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weight of a class in the loss; balanced gives rare classes as much as frequent ones."
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better validation accuracy (micro F1 with multi_label) after which training ends "
        "and the best epoch's weights are restored; by default neither.",
    )
    early_stopping_min_delta: float = Field(
        0.0, ge=0, description="Least gain in accuracy, or micro F1, that counts as better."
    )
    early_stopping_min_epochs: int = Field(0, ge=0, description="Epochs that are trained in any case.")


class RunSpec(Section):
    """Run: how the job runs, and what it reports."""

    seed: int = Field(0, ge=0, lt=2**32, description="What all randomness is derived from.")
    precision: Precision = Field(
        "auto",
        description="Arithmetic of the network: auto takes bf16 where GPU or CPU multiply in it, fp16 on older "
        "GPUs, else fp32.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Threads that prepare batches; by default as many as it takes for no batch to be late, up to the "
        "number of cores, 16 at most. Changes no result.",
    )
    compile: bool = Field(
        False,
        description="Whether the layers that learn are compiled, for pictures; pays in jobs of hours, and needs a "
        "compiler, which the image leaves out.",
    )
    top_k: int | None = Field(None, ge=2, description="Also report how often the class is among the k likeliest.")
    pipe_wait_seconds: float = Field(
        600.0, gt=0, description="Seconds without data after which a channel in Pipe mode is given up."
    )


class CheckpointSpec(Section):
    """Checkpoints: when the state of the job is kept, and whether it is taken up again."""

    resume: Resume = Field("auto", description="Whether a checkpoint is taken up: if there is one, never, or must be.")
    interval_steps: int | None = Field(
        None,
        ge=1,
        alias="checkpoint_interval_steps",
        description="Steps between checkpoints; by default none by steps.",
    )
    interval_seconds: float | None = Field(
        30.0, gt=0, alias="checkpoint_interval_seconds", description="Least seconds between checkpoints by time."
    )
    keep: int = Field(2, ge=1, le=1000, alias="checkpoint_keep", description="Newest checkpoints that are kept.")
    s3_uri: str | None = Field(
        None,
        alias="checkpoint_s3_uri",
        pattern=r"^s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?$",
        description="Where checkpoints go as well, for a container outside the platform, which synchronises its own.",
    )


class FeatureSpec(Section):
    """Features: what frozen layers make of the records, computed once instead of in every epoch."""

    cache: Literal["auto", "off"] = Field(
        "auto",
        alias="feature_cache",
        description="Whether outputs of frozen layers are kept; with off, every epoch varies pictures anew and "
        "computes them again.",
    )
    views: int | None = Field(
        None,
        ge=1,
        le=1000,
        alias="augmentation_views",
        description="With frozen layers: variations of each picture, with which epochs take turns, so many passes "
        "through those layers; 1 is the picture as it is, the default; where "
        "variations help, 8 were as good as a new one in each epoch.",
    )
    size_gb: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        alias="cache_size_gb",
        description="Most gigabytes of features, or of decoded pictures, that are kept; the rest is computed or "
        "decoded again. By default as much as fits into half of the free memory, then of the free disk. Changes no "
        "result.",
    )


class ObserveSpec(Section):
    """Observation: what the job watches and reports; nothing of it changes a weight."""

    rules: str | None = Field(
        "all",
        description="Rules that watch the job: all, None, or names with `,` between them, each with parameters if "
        "wanted, as `Overfit:patience=3:ratio_threshold=0.2`. See docs/rules.md.",
    )
    rule_action: RuleAction = Field(
        "log", description="What a rule that finds something does: say so, or also stop the job, saved and exported."
    )
    target_precision: float | None = Field(
        None, gt=0, lt=1, description="For two classes or multi_label: least precision that decisions must reach on "
        "validation, of the second of two classes or of each label, from which their thresholds follow."
    )  # fmt: skip
    target_recall: float | None = Field(
        None, gt=0, lt=1, description="For two classes or multi_label: least recall likewise, instead of a precision."
    )
    price_per_hour: float | None = Field(None, ge=0, description="Price of the instance, for the report's cost line.")


SECTIONS: tuple[type[Section], ...] = (
    DataSpec,
    ModelSpec,
    StrategySpec,
    OptimisationSpec,
    RunSpec,
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
        optimisation: optimizer, learning rates and schedule.
        run: execution and reported metrics.
        checkpoint: saving and resuming.
        features: caching of frozen layer outputs.
        observe: monitoring and reporting.
        notes: one sentence for each hyperparameter that was translated or ignored, with the reason; for the log.
        given: names of the hyperparameters that the user set, without those that have no effect according to the notes.
        objective: objective metric of a tuner; `None` outside a tuning job.
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
