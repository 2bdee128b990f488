"""Table of the supported names of other tools and their translations.

Sources: the platform's developer guide, pages "Image Classification Hyperparameters", "Image Classification -
TensorFlow Hyperparameters", "Text Classification - TensorFlow Hyperparameters" and "BlazingText Hyperparameters";
the arguments of JumpStart's training scripts; `transformers.TrainingArguments`.
"""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.compat.alias import Alias, Translation, chosen, ignored, renamed, setting
from finetune.config.compat.alias_rules import RULES

MXNET = "image classification (MXNet)"
TENSORFLOW = "image and text classification (TensorFlow)"
BLAZING = "BlazingText"
JUMPSTART = "JumpStart"
HUGGING_FACE = "Hugging Face Trainer"

_LEARNING_ALL = ("partial", "gradual", "from_scratch")
_NOTHING = Translation()

_RENAMED = (
    renamed("mini_batch_size", MXNET, "batch_size"),
    renamed("adam_learning_rate", JUMPSTART, "learning_rate"),
    renamed("lr", "many scripts", "learning_rate"),
    renamed("lr_scheduler_factor", MXNET, "lr_factor"),
    renamed(
        "early_stopping_tolerance", MXNET, "early_stopping_min_delta", "where it is a difference instead of a ratio"
    ),
    renamed("patience", BLAZING, "early_stopping_patience"),
    renamed("min_epochs", BLAZING, "early_stopping_min_epochs"),
    renamed("dropout_rate", TENSORFLOW, "dropout"),
    renamed("epsilon", TENSORFLOW, "eps"),
    renamed("validation_split_ratio", TENSORFLOW, "validation_fraction"),
    renamed("warmup_steps_fraction", TENSORFLOW, "warmup_fraction"),
    renamed("model_id", JUMPSTART, "model_name"),
    renamed("model_name_or_path", HUGGING_FACE, "model_name"),
    renamed("num_train_epochs", HUGGING_FACE, "epochs"),
    renamed("train_batch_size", HUGGING_FACE, "batch_size"),
    renamed("per_device_train_batch_size", HUGGING_FACE, "batch_size", "since a job has one device"),
    renamed("warmup_ratio", HUGGING_FACE, "warmup_fraction"),
    renamed("max_seq_length", HUGGING_FACE, "max_length"),
    renamed("max_grad_norm", HUGGING_FACE, "gradient_clip_norm"),
    renamed("adam_beta1", HUGGING_FACE, "beta_1"),
    renamed("adam_beta2", HUGGING_FACE, "beta_2"),
    renamed("adam_epsilon", HUGGING_FACE, "eps"),
    renamed("label_smoothing_factor", HUGGING_FACE, "label_smoothing"),
    renamed("dataloader_num_workers", HUGGING_FACE, "workers"),
    renamed("text_column_name", HUGGING_FACE, "text_column"),
    renamed("label_column_name", HUGGING_FACE, "label_column"),
    renamed("save_steps", HUGGING_FACE, "checkpoint_interval_steps"),
    renamed("save_total_limit", HUGGING_FACE, "checkpoint_keep"),
)

_CHOSEN = (
    chosen(
        "use_pretrained_model",
        f"{MXNET}, where 0 is the default; here pretrained weights are",
        {
            "true": setting("strategy", "full", "feature_extraction", "partial", "gradual", "evaluate"),
            "false": setting("strategy", "from_scratch"),
        },
    ),
    chosen(
        "num_layers",
        MXNET,
        {depth: setting("model_name", f"resnet{depth}") for depth in ("18", "34", "50", "101", "152")},
    ),
    chosen(
        "augmentation_type",
        MXNET,
        {
            "crop": setting("augmentation", "basic"),
            "crop_color": setting("augmentation", "strong"),
            "crop_color_transform": setting("augmentation", "strong"),
        },
    ),
    chosen(
        "precision_dtype",
        MXNET,
        {"float32": setting("precision", "fp32"), "float16": setting("precision", "fp16")},
    ),
    chosen(
        "use_weighted_loss",
        MXNET,
        {"true": setting("class_weights", "balanced"), "false": setting("class_weights", "none")},
    ),
    *(
        chosen(
            name,
            f"{TENSORFLOW}, {JUMPSTART}",
            {
                "true": setting("strategy", "feature_extraction"),
                "false": setting("strategy", "full", *_LEARNING_ALL),
            },
        )
        for name in ("train_only_top_layer", "train_only_on_top_layer")
    ),
    chosen("fp16", HUGGING_FACE, {"true": setting("precision", "fp16"), "false": _NOTHING}),
    chosen("bf16", HUGGING_FACE, {"true": setting("precision", "bf16"), "false": _NOTHING}),
    chosen(
        "lr_scheduler_type",
        HUGGING_FACE,
        {
            "linear": setting("lr_schedule", "linear"),
            "cosine": setting("lr_schedule", "cosine"),
            "constant": setting("lr_schedule", "constant"),
            "constant_with_warmup": setting("lr_schedule", "constant"),
        },
    ),
    chosen(
        "optim",
        HUGGING_FACE,
        {
            "adamw_torch": setting("optimizer", "adamw"),
            "adamw_torch_fused": setting("optimizer", "adamw"),
            "adamw_hf": setting("optimizer", "adamw"),
            "sgd": setting("optimizer", "sgd"),
            "rmsprop": setting("optimizer", "rmsprop"),
        },
    ),
    chosen("binary_mode", JUMPSTART, {"false": _NOTHING}),
    chosen("mode", BLAZING, {"supervised": _NOTHING}),
)

_WORD_VECTORS = "it shapes word vectors, and the network here is a pretrained transformer"
_STRENGTH = "the strength of augmentation is a property of augmentation=basic and strong"
_LOGGED = "there is one line per epoch, and progress within long ones"
_EVALUATED = "the validation records are evaluated after every epoch"
_BEST = "the best epoch is the one of the highest validation accuracy, and early_stopping_patience restores it"

_IGNORED = (
    ignored("resize", MXNET, "images are resized as the network's weights expect it; see image_size"),
    ignored("kv_store", MXNET, "a job trains on one device"),
    ignored(
        "checkpoint_frequency", MXNET, "checkpoints follow checkpoint_interval_seconds and are no part of the model"
    ),
    ignored("image_resize_interpolation", JUMPSTART, "images are resized as the network's weights expect it"),
    ignored("regularizers_l2", TENSORFLOW, "the head decays like all layers, by weight_decay"),
    ignored("initial_accumulator_value", TENSORFLOW, "it belongs to adagrad, which is not among the optimizers"),
    ignored("augmentation_random_flip", JUMPSTART, _STRENGTH),
    ignored("augmentation_random_rotation", JUMPSTART, _STRENGTH),
    ignored("augmentation_random_zoom", JUMPSTART, _STRENGTH),
    ignored("eval_metric", JUMPSTART, _BEST),
    ignored("verbose_one_line_per_epoch", JUMPSTART, _LOGGED),
    ignored("checkpoint_save_best_only", JUMPSTART, _BEST),
    *(ignored(name, BLAZING, _WORD_VECTORS) for name in ("buckets", "min_count", "vector_dim", "word_ngrams")),
    ignored(
        "per_device_eval_batch_size", HUGGING_FACE, "evaluation has the batches of training; no result depends on it"
    ),
    ignored("eval_batch_size", HUGGING_FACE, "evaluation has the batches of training; no result depends on it"),
    *(ignored(name, HUGGING_FACE, _EVALUATED) for name in ("eval_strategy", "evaluation_strategy", "eval_steps")),
    ignored("metric_for_best_model", HUGGING_FACE, _BEST),
    *(
        ignored(name, HUGGING_FACE, _LOGGED)
        for name in ("logging_steps", "logging_strategy", "logging_dir", "report_to")
    ),
    ignored(
        "save_strategy",
        HUGGING_FACE,
        "checkpoints follow checkpoint_interval_seconds and checkpoint_interval_steps, and the ends of epochs",
    ),
    *(ignored(name, HUGGING_FACE, "training and evaluation follow from strategy") for name in ("do_train", "do_eval")),
    *(ignored(name, HUGGING_FACE, "the platform has one folder for it") for name in ("output_dir", "model_dir")),
)

ALIASES: Mapping[str, Alias] = {alias.name: alias for alias in (*_RENAMED, *_CHOSEN, *RULES, *_IGNORED)}

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
