"""The dialects: names that identify a tool, and its defaults.

Sources: the platform's developer guide, pages "Image Classification Hyperparameters", "Image Classification -
TensorFlow Hyperparameters", "Text Classification - TensorFlow Hyperparameters" and "BlazingText Hyperparameters"; the
training scripts of JumpStart; `transformers.TrainingArguments` and the example scripts of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.dialects.dialect import (
    Condition,
    Default,
    Dialect,
    DialectName,
    Situation,
    with_new_model,
    with_optimizer,
    without,
)


def _with_early_stopping(situation: Situation) -> bool:
    return situation.values.get("early_stopping_patience", "None") != "None"


def _trains_below_head(situation: Situation) -> bool:
    """With only the head to train, `learning_rate` is already that of the head."""
    return situation.values.get("strategy") != "feature_extraction"


def _single_label(situation: Situation) -> bool:
    return situation.values.get("multi_label", "0").strip("'\"").lower() in {"0", "false", "no"}


_UNLESS_EARLY_STOPPING: Condition = without("early_stopping_patience")

_ONE_LEARNING_RATE = (
    Default("head_learning_rate", same_as="learning_rate", condition=_trains_below_head),
    Default("layer_decay", "1"),
)
"""These tools have one learning rate for all layers."""
_GRADIENT_STEPS = Default("head_solver", "sgd")
_NO_WARMUP = Default("warmup_fraction", "0", without("warmup_steps"))

MXNET = Dialect(
    name="mxnet_image_classification",
    tool="Image Classification - MXNet",
    identified_by=frozenset(
        {"num_layers", "image_shape", "use_pretrained_model", "mini_batch_size", "lr_scheduler_step"}
        | {"lr_scheduler_factor", "augmentation_type", "precision_dtype", "use_weighted_loss", "kv_store"}
        | {"checkpoint_frequency", "early_stopping_tolerance", "resize"}
    ),
    defaults=(
        Default("model_name", "resnet152", with_new_model),
        Default("strategy", "from_scratch", with_new_model),
        Default("strategy", "full"),
        _GRADIENT_STEPS,
        Default("optimizer", "sgd"),
        Default("learning_rate", "0.1"),
        *_ONE_LEARNING_RATE,
        Default("momentum", "0.9", with_optimizer("sgd", "nag")),
        Default("momentum", "0", with_optimizer("rmsprop")),
        Default("weight_decay", "0.0001", with_optimizer("sgd", "nag")),
        Default("weight_decay", "0"),
        Default("rho", "0.9", with_optimizer("rmsprop")),
        Default("lr_schedule", "constant"),
        _NO_WARMUP,
        Default("epochs", "30"),
        Default("batch_size", "32"),
        Default("image_size", "224"),
        Default("augmentation", "none"),
        Default("best_metric", "accuracy", _single_label),
        Default("early_stopping_min_epochs", "10", _with_early_stopping),
    ),
    optimizer_options={"momentum": ("sgd", "nag"), "weight_decay": ("sgd", "nag")},
)

_TENSORFLOW_NAMES = frozenset({"train_only_on_top_layer", "regularizers_l2", "dropout_rate", "epsilon"})


def _tensorflow_defaults(epochs: str) -> tuple[Default, ...]:
    return (
        Default("strategy", "full"),
        _GRADIENT_STEPS,
        Default("optimizer", "adam"),
        Default("learning_rate", "0.001"),
        *_ONE_LEARNING_RATE,
        Default("momentum", "0.9", with_optimizer("sgd", "nag")),
        Default("rho", "0.95", with_optimizer("rmsprop", "adadelta")),
        Default("initial_accumulator_value", "0.0001", with_optimizer("adagrad")),
        Default("eps", "1e-7", with_optimizer("adam", "adamw", "rmsprop", "adagrad", "adadelta")),
        Default("epochs", epochs),
        Default("batch_size", "32"),
        Default("dropout", "0.2"),
        Default("best_metric", "accuracy"),
    )


TENSORFLOW_IMAGE = Dialect(
    name="tensorflow_image_classification",
    tool="Image Classification - TensorFlow",
    identified_by=frozenset(
        {"augmentation_random_flip", "augmentation_random_rotation", "augmentation_random_zoom"}
        | {"image_resize_interpolation", "binary_mode", "eval_metric"}
    ),
    shared_names=_TENSORFLOW_NAMES,
    defaults=(
        *_tensorflow_defaults(epochs="3"),
        Default("momentum", "0.9", with_optimizer("rmsprop")),
        Default("weight_decay", "0"),
        Default("lr_schedule", "constant"),
        _NO_WARMUP,
        Default("label_smoothing", "0.1"),
        Default("augmentation", "none"),
    ),
    optimizer_options={"momentum": ("sgd", "nag", "rmsprop")},
)

TENSORFLOW_TEXT = Dialect(
    name="tensorflow_text_classification",
    tool="Text Classification - TensorFlow",
    identified_by=frozenset({"warmup_steps_fraction", "validation_split_ratio"}),
    shared_names=_TENSORFLOW_NAMES,
    defaults=(
        Default("task", "text-classification"),
        *_tensorflow_defaults(epochs="10"),
        Default("momentum", "0", with_optimizer("rmsprop")),
        Default("weight_decay", "0.01", with_optimizer("adamw")),
        Default("weight_decay", "0"),
        Default("lr_schedule", "linear", with_optimizer("adamw")),
        Default("lr_schedule", "constant"),
        Default("warmup_fraction", "0.1", with_optimizer("adamw")),
        _NO_WARMUP,
    ),
    optimizer_options={"momentum": ("sgd", "nag"), "warmup_fraction": ("adamw",)},
)

BLAZINGTEXT = Dialect(
    name="blazingtext",
    tool="BlazingText",
    identified_by=frozenset({"mode", "word_ngrams", "vector_dim", "min_count", "buckets"}),
    defaults=(
        Default("task", "text-classification"),
        Default("epochs", "5"),
        Default("early_stopping_min_epochs", "5", _with_early_stopping),
    ),
    ignored={
        "learning_rate": "it is the step size of word vectors, far too large for the pretrained transformer that is "
        "trained here; use the default, or head_learning_rate and dialect=none to set your own"
    },
)

JUMPSTART = Dialect(
    name="jumpstart",
    tool="JumpStart (PyTorch)",
    identified_by=frozenset({"train_only_top_layer", "adam_learning_rate"}),
    defaults=(
        Default("strategy", "feature_extraction"),
        _GRADIENT_STEPS,
        Default("optimizer", "adam"),
        Default("learning_rate", "0.001"),
        *_ONE_LEARNING_RATE,
        Default("weight_decay", "0"),
        Default("lr_schedule", "constant"),
        _NO_WARMUP,
        Default("epochs", "5"),
        Default("batch_size", "4"),
        Default("augmentation", "basic"),
        Default("best_metric", "accuracy"),
    ),
)

HUGGING_FACE = Dialect(
    name="huggingface",
    tool="Hugging Face Trainer",
    identified_by=frozenset(
        {"per_device_train_batch_size", "per_device_eval_batch_size", "train_batch_size", "eval_batch_size"}
        | {"num_train_epochs", "model_name_or_path", "lr_scheduler_type", "optim", "warmup_ratio", "max_grad_norm"}
        | {"adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor", "load_best_model_at_end"}
        | {"metric_for_best_model", "eval_strategy", "evaluation_strategy", "save_strategy", "logging_strategy"}
        | {"max_seq_length", "do_train", "do_eval", "save_total_limit", "eval_accumulation_steps"}
    ),
    defaults=(
        Default("strategy", "full"),
        _GRADIENT_STEPS,
        Default("optimizer", "adamw"),
        Default("learning_rate", "5e-5"),
        *_ONE_LEARNING_RATE,
        Default("weight_decay", "0"),
        Default("gradient_clip_norm", "1"),
        Default("lr_schedule", "linear"),
        _NO_WARMUP,
        Default("epochs", "3", without("max_steps")),
        Default("batch_size", "8"),
        Default("augmentation", "basic"),
        Default("validation_fraction", "0", _UNLESS_EARLY_STOPPING),
        Default("best_metric", "none", _UNLESS_EARLY_STOPPING),
    ),
    evaluates_on_test=True,
)

DIALECTS: Mapping[DialectName, Dialect] = {
    dialect.name: dialect
    for dialect in (MXNET, TENSORFLOW_IMAGE, TENSORFLOW_TEXT, BLAZINGTEXT, JUMPSTART, HUGGING_FACE)
}

OBJECTIVES: Mapping[str, str] = {
    "val_accuracy": "validation:accuracy",
    "val_loss": "validation:loss",
    "eval_accuracy": "validation:accuracy",
    "eval_loss": "validation:loss",
    "eval_f1": "validation:macro_f1",
}
"""Objective metrics of tuners for these tools, with their names here."""
