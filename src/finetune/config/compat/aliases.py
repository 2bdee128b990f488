"""Table of the supported names of other tools and their translations.

Sources: the platform's developer guide, pages "Image Classification Hyperparameters", "Image Classification -
TensorFlow Hyperparameters", "Text Classification - TensorFlow Hyperparameters" and "BlazingText Hyperparameters";
the arguments of JumpStart's training scripts; `transformers.TrainingArguments`.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.compat.alias import Alias, Translation, assign, choice_alias, ignored_alias, name_alias
from finetune.config.compat.alias_rules import FUNCTION_ALIASES

MXNET = "image classification (MXNet)"
TENSORFLOW = "image and text classification (TensorFlow)"
BLAZING = "BlazingText"
JUMPSTART = "JumpStart"
HUGGING_FACE = "Hugging Face Trainer"

_STRATEGIES_TRAINING_ALL = ("partial", "gradual", "from_scratch")
_NO_CHANGE = Translation()

_NAME_ALIASES = (
    name_alias("mini_batch_size", MXNET, "batch_size"),
    name_alias("adam_learning_rate", JUMPSTART, "learning_rate"),
    name_alias("lr", "many scripts", "learning_rate"),
    name_alias("lr_scheduler_factor", MXNET, "lr_factor"),
    name_alias(
        "early_stopping_tolerance", MXNET, "early_stopping_min_delta", "which is a difference instead of a ratio"
    ),
    name_alias("patience", BLAZING, "early_stopping_patience"),
    name_alias("min_epochs", BLAZING, "early_stopping_min_epochs"),
    name_alias("dropout_rate", TENSORFLOW, "dropout"),
    name_alias("epsilon", TENSORFLOW, "eps"),
    name_alias("validation_split_ratio", TENSORFLOW, "validation_fraction"),
    name_alias("warmup_steps_fraction", TENSORFLOW, "warmup_fraction"),
    name_alias("model_id", JUMPSTART, "model_name"),
    name_alias("model_name_or_path", HUGGING_FACE, "model_name"),
    name_alias("num_train_epochs", HUGGING_FACE, "epochs"),
    name_alias("train_batch_size", HUGGING_FACE, "batch_size"),
    name_alias(
        "per_device_train_batch_size", HUGGING_FACE, "batch_size", "which counts the records of all devices together"
    ),
    name_alias("warmup_ratio", HUGGING_FACE, "warmup_fraction"),
    name_alias("max_seq_length", HUGGING_FACE, "max_length"),
    name_alias("max_grad_norm", HUGGING_FACE, "gradient_clip_norm"),
    name_alias("adam_beta1", HUGGING_FACE, "beta_1"),
    name_alias("adam_beta2", HUGGING_FACE, "beta_2"),
    name_alias("adam_epsilon", HUGGING_FACE, "eps"),
    name_alias("gradient_checkpointing", HUGGING_FACE, "activation_checkpointing"),
    name_alias("label_smoothing_factor", HUGGING_FACE, "label_smoothing"),
    name_alias("dataloader_num_workers", HUGGING_FACE, "workers"),
    name_alias("text_column_name", HUGGING_FACE, "text_column"),
    name_alias("label_column_name", HUGGING_FACE, "label_column"),
    name_alias("save_steps", HUGGING_FACE, "checkpoint_interval_steps"),
    name_alias("save_total_limit", HUGGING_FACE, "checkpoint_keep"),
)

_CHOICE_ALIASES = (
    choice_alias(
        "use_pretrained_model",
        f"{MXNET}, where the default is 0; here it is 1",
        {
            "true": assign("strategy", "full", "feature_extraction", "partial", "gradual", "evaluate"),
            "false": assign("strategy", "from_scratch"),
        },
    ),
    choice_alias(
        "num_layers",
        MXNET,
        {depth: assign("model_name", f"resnet{depth}") for depth in ("18", "34", "50", "101", "152")},
    ),
    choice_alias(
        "augmentation_type",
        MXNET,
        {
            "crop": assign("augmentation", "basic"),
            "crop_color": assign("augmentation", "strong"),
            "crop_color_transform": assign("augmentation", "strong"),
        },
    ),
    choice_alias(
        "precision_dtype",
        MXNET,
        {"float32": assign("precision", "fp32"), "float16": assign("precision", "fp16")},
    ),
    choice_alias(
        "use_weighted_loss",
        MXNET,
        {"true": assign("class_weights", "balanced"), "false": assign("class_weights", "none")},
    ),
    *(
        choice_alias(
            name,
            f"{TENSORFLOW}, {JUMPSTART}",
            {
                "true": assign("strategy", "feature_extraction"),
                "false": assign("strategy", "full", *_STRATEGIES_TRAINING_ALL),
            },
        )
        for name in ("train_only_top_layer", "train_only_on_top_layer")
    ),
    choice_alias("fp16", HUGGING_FACE, {"true": assign("precision", "fp16"), "false": _NO_CHANGE}),
    choice_alias("bf16", HUGGING_FACE, {"true": assign("precision", "bf16"), "false": _NO_CHANGE}),
    choice_alias(
        "lr_scheduler_type",
        HUGGING_FACE,
        {
            "linear": assign("lr_schedule", "linear"),
            "cosine": assign("lr_schedule", "cosine"),
            "constant": assign("lr_schedule", "constant"),
            "constant_with_warmup": assign("lr_schedule", "constant"),
        },
    ),
    choice_alias(
        "optim",
        HUGGING_FACE,
        {
            "adamw_torch": assign("optimizer", "adamw"),
            "adamw_torch_fused": assign("optimizer", "adamw"),
            "adamw_hf": assign("optimizer", "adamw"),
            "sgd": assign("optimizer", "sgd"),
            "rmsprop": assign("optimizer", "rmsprop"),
        },
    ),
    choice_alias("binary_mode", JUMPSTART, {"false": _NO_CHANGE}),
    choice_alias("mode", BLAZING, {"supervised": _NO_CHANGE}),
)

_WORD_VECTORS_ONLY = "it configures word vectors, but models here are pretrained transformers"
_AUGMENTATION_STRENGTH = "the strength of augmentation is set by augmentation (basic or strong)"
_FIXED_LOGGING = "metrics are logged once per epoch, and progress during long epochs"
_FIXED_EVALUATION = "validation runs after every epoch"
_BEST_EPOCH = "the best epoch on validation is exported; see best_metric"

_IGNORED_ALIASES = (
    ignored_alias("resize", MXNET, "images are resized as the pretrained model expects; see image_size"),
    ignored_alias("kv_store", MXNET, "all devices exchange gradients in every step"),
    ignored_alias(
        "checkpoint_frequency",
        MXNET,
        "checkpoints are saved every checkpoint_interval_seconds and are not part of the model",
    ),
    ignored_alias("image_resize_interpolation", JUMPSTART, "images are resized as the pretrained model expects"),
    ignored_alias("regularizers_l2", TENSORFLOW, "weight_decay applies to the head as to all layers"),
    ignored_alias("initial_accumulator_value", TENSORFLOW, "it is an option of adagrad, which is not supported"),
    ignored_alias("augmentation_random_flip", JUMPSTART, _AUGMENTATION_STRENGTH),
    ignored_alias("augmentation_random_rotation", JUMPSTART, _AUGMENTATION_STRENGTH),
    ignored_alias("augmentation_random_zoom", JUMPSTART, _AUGMENTATION_STRENGTH),
    ignored_alias("eval_metric", JUMPSTART, _BEST_EPOCH),
    ignored_alias("verbose_one_line_per_epoch", JUMPSTART, _FIXED_LOGGING),
    ignored_alias("checkpoint_save_best_only", JUMPSTART, _BEST_EPOCH),
    *(
        ignored_alias(name, BLAZING, _WORD_VECTORS_ONLY)
        for name in ("buckets", "min_count", "vector_dim", "word_ngrams")
    ),
    *(
        ignored_alias(name, HUGGING_FACE, "evaluation uses the batch size of training; results do not depend on it")
        for name in ("per_device_eval_batch_size", "eval_batch_size")
    ),
    *(
        ignored_alias(name, HUGGING_FACE, _FIXED_EVALUATION)
        for name in ("eval_strategy", "evaluation_strategy", "eval_steps")
    ),
    *(
        ignored_alias(name, HUGGING_FACE, _FIXED_LOGGING)
        for name in ("logging_steps", "logging_strategy", "logging_dir", "report_to")
    ),
    ignored_alias(
        "save_strategy",
        HUGGING_FACE,
        "checkpoints are saved by checkpoint_interval_seconds and checkpoint_interval_steps, and after epochs",
    ),
    *(
        ignored_alias(name, HUGGING_FACE, "strategy determines whether the job trains")
        for name in ("do_train", "do_eval")
    ),
    *(ignored_alias(name, HUGGING_FACE, "the platform sets the folder") for name in ("output_dir", "model_dir")),
)

ALIASES: Mapping[str, Alias] = {
    alias.name: alias for alias in (*_NAME_ALIASES, *_CHOICE_ALIASES, *FUNCTION_ALIASES, *_IGNORED_ALIASES)
}

SYNONYMS: Mapping[tuple[str, str], str] = {
    ("optimizer", "nesterov"): "nag",
    ("augmentation", "true"): "strong",
    ("augmentation", "false"): "none",
    ("precision", "float32"): "fp32",
    ("precision", "float16"): "fp16",
    ("precision", "bfloat16"): "bf16",
    ("lr_schedule", "constant_with_warmup"): "constant",
}
"""Values that other tools use for a hyperparameter of the same name, with their equivalents here."""

OBJECTIVE = "_tuning_objective_metric"
"""Name of the objective metric, added by the platform to tuning jobs."""

PLATFORM_NAMES = ("sagemaker_", OBJECTIVE)
"""Prefixes of names that the platform's clients add by themselves."""
