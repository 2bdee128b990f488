"""Table of the supported names of other tools and their translations.

Sources: the platform's developer guide, pages "Image Classification Hyperparameters", "Image Classification -
TensorFlow Hyperparameters", "Text Classification - TensorFlow Hyperparameters" and "BlazingText Hyperparameters";
the arguments of JumpStart's training scripts; `transformers.TrainingArguments`.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.compat.alias import Alias, Assignment, Translation, assign, choice_alias, name_alias
from finetune.config.compat.alias_rules import FUNCTION_ALIASES
from finetune.config.compat.ignored_names import IGNORED_ALIASES, REFUSED_ALIASES
from finetune.config.compat.tools import BLAZING, HUGGING_FACE, JUMPSTART, MXNET, TENSORFLOW

_STRATEGIES_TRAINING_ALL = ("partial", "gradual", "from_scratch")
_NO_CHANGE = Translation()
_SAME_BY_DEFAULT = "which is the same with the default power of 1, or without restarts"

_NAME_ALIASES = (
    name_alias("mini_batch_size", MXNET, "batch_size"),
    name_alias("gamma", MXNET, "rho"),
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
    name_alias("max_train_steps", HUGGING_FACE, "max_steps"),
    name_alias("num_labels", HUGGING_FACE, "num_classes"),
    name_alias("train_val_split", HUGGING_FACE, "validation_fraction"),
    name_alias("torch_compile", HUGGING_FACE, "compile"),
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
            "true": assign("strategy", "full", "auto", "feature_extraction", "partial", "gradual", "evaluate"),
            "false": assign("strategy", "from_scratch"),
        },
    ),
    choice_alias(
        "augmentation_type",
        MXNET,
        {
            "none": assign("augmentation", "none"),
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
            "polynomial": Translation((Assignment("lr_schedule", "linear", remark=_SAME_BY_DEFAULT),)),
            "cosine_with_restarts": Translation((Assignment("lr_schedule", "cosine", remark=_SAME_BY_DEFAULT),)),
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
            "adagrad": assign("optimizer", "adagrad"),
        },
    ),
    choice_alias(
        "binary_mode",
        JUMPSTART,
        {
            "true": Translation((Assignment("num_classes", "2", remark="and answers contain both probabilities"),)),
            "false": _NO_CHANGE,
        },
    ),
    choice_alias("mode", BLAZING, {"supervised": _NO_CHANGE}),
)

ALIASES: Mapping[str, Alias] = {
    alias.name: alias
    for alias in (*_NAME_ALIASES, *_CHOICE_ALIASES, *FUNCTION_ALIASES, *IGNORED_ALIASES, *REFUSED_ALIASES)
}

SYNONYMS: Mapping[tuple[str, str], str] = {
    ("optimizer", "nesterov"): "nag",
    ("augmentation", "true"): "strong",
    ("augmentation", "false"): "none",
    ("precision", "float32"): "fp32",
    ("precision", "float16"): "fp16",
    ("precision", "bfloat16"): "bf16",
    ("lr_schedule", "constant_with_warmup"): "constant",
    ("max_steps", "-1"): "None",
}
"""Values that other tools use for a hyperparameter of the same name, with their equivalents here."""

OBJECTIVE = "_tuning_objective_metric"
"""Name of the objective metric, added by the platform to tuning jobs."""

PLATFORM_NAMES = ("sagemaker_", OBJECTIVE)
"""Prefixes of names that the platform's clients add by themselves."""
