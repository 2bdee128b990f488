"""Names of other tools that have no equivalent, with the reason, and names that are refused with a remedy."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.compat.alias import Alias, ignored_alias, refused_alias
from finetune.config.compat.tools import BLAZING, HUGGING_FACE, JUMPSTART, MXNET, TENSORFLOW

_WORD_VECTORS_ONLY = "it configures word vectors, but models here are pretrained transformers"
_AUGMENTATION_STRENGTH = "the strength of augmentation is set by augmentation (basic or strong)"
_FIXED_LOGGING = "metrics are logged once per epoch, and progress during long epochs"
_FIXED_EVALUATION = "validation runs after every epoch"
_BEST_EPOCH = "the best epoch on validation is exported; see best_metric"
_CHANNELS = "data comes from the channels"
_HUB = "nothing is uploaded; the model is in model.tar.gz"
_TOKEN = "models come from the model channel or the image, so no token is needed; remove it from the request"  # noqa: S105
_SET_BY_JOB = "the job chooses it; it does not change the result"
_OWN_FORMAT = "checkpoints have a format of their own, and are saved after epochs and by checkpoint_interval_seconds"

_REASONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    MXNET: {
        "images are resized as the pretrained model expects; see image_size": ("resize",),
        "all devices exchange gradients in every step": ("kv_store",),
        "checkpoints are saved every checkpoint_interval_seconds and are not part of the model": (
            "checkpoint_frequency",
        ),
    },
    TENSORFLOW: {"weight_decay applies to the head as to all layers": ("regularizers_l2",)},
    JUMPSTART: {
        "images are resized as the pretrained model expects": ("image_resize_interpolation",),
        _AUGMENTATION_STRENGTH: (
            *("augmentation_random_flip", "augmentation_random_rotation", "augmentation_random_zoom"),
        ),
        _FIXED_LOGGING: ("verbose_one_line_per_epoch",),
        _BEST_EPOCH: ("checkpoint_save_best_only",),
    },
    BLAZING: {_WORD_VECTORS_ONLY: ("buckets", "min_count", "vector_dim", "word_ngrams")},
    HUGGING_FACE: {
        "evaluation uses the batch size of training; results do not depend on it": (
            *("per_device_eval_batch_size", "eval_batch_size", "eval_accumulation_steps"),
        ),
        _FIXED_EVALUATION: (
            *("eval_strategy", "evaluation_strategy", "eval_steps", "eval_delay", "do_predict", "prediction_loss_only"),
        ),
        _FIXED_LOGGING: (
            *("logging_steps", "logging_strategy", "logging_dir", "logging_first_step", "report_to", "run_name"),
            *("log_level", "disable_tqdm", "skip_memory_metrics"),
        ),
        "checkpoints are saved by checkpoint_interval_seconds and checkpoint_interval_steps, and after epochs": (
            "save_strategy",
        ),
        _OWN_FORMAT: ("checkpoints", "save_only_model", "save_safetensors", "save_on_each_node"),
        "strategy determines whether the job trains": ("do_train", "do_eval"),
        "the platform sets the folder": ("output_dir", "model_dir", "overwrite_output_dir", "cache_dir"),
        _CHANNELS: (
            *("train_file", "validation_file", "test_file", "train_dir", "validation_dir", "train_dataset_path"),
            *("test_dataset_path", "training_dir", "test_dir"),
        ),
        _HUB: (
            *("push_to_hub", "push_to_hub_model_id", "push_to_hub_organization", "hub_model_id", "hub_strategy"),
            *("hub_private_repo", "hub_always_push"),
        ),
        _TOKEN: ("hub_token", "push_to_hub_token", "use_auth_token", "token", "hf_token", "HF_TOKEN"),
        "columns are chosen by text_column and label_column": ("remove_unused_columns", "length_column_name"),
        "texts are padded to the longest of their batch, which does not change the result": ("pad_to_max_length",),
        "its direction follows from the metric": ("greater_is_better",),
        _SET_BY_JOB: (
            *("tf32", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
            *("preprocessing_num_workers", "overwrite_cache", "ddp_find_unused_parameters", "ddp_backend"),
            *("local_rank", "use_fast_tokenizer", "gradient_checkpointing_kwargs", "half_precision_backend"),
            *("fp16_opt_level", "fp16_full_eval", "bf16_full_eval", "no_cuda", "use_cpu", "n_gpus"),
        ),
        "seed determines all random numbers": ("data_seed", "full_determinism"),
        "a head with other classes is replaced; see reinitialize_top_layer": ("ignore_mismatched_sizes",),
        "a job resumes from its checkpoint folder; see resume": ("resume_from_checkpoint",),
        "batches are not selected by their loss": ("use_sifting",),
    },
}

_REMEDIES: Mapping[str, str] = {
    "dataset_name": "a job has no network, so download the data set and pass it as channel 'train', for example the"
    " folder written by save_to_disk; then remove dataset_name",
    "dataset_config_name": "pass the data set as channel 'train' and remove it",
    "task_name": "GLUE tasks are not downloaded; pass their files as channels 'train' and 'validation', and remove it",
    "max_train_samples": "reduce the channel 'train' instead",
    "max_eval_samples": "reduce the channel 'validation' instead",
    "config_name": "use model_name, whose folder contains the configuration",
    "tokenizer_name": "use model_name, whose folder contains the tokenizer",
    "trust_remote_code": "code of a model is never run; use a model that transformers itself implements",
    "deepspeed": "use sharding, which divides parameters and optimizer state among the devices",
    "fsdp": "use sharding, which divides parameters and optimizer state among the devices",
}

IGNORED_ALIASES: tuple[Alias, ...] = tuple(
    ignored_alias(name, used_by, reason)
    for used_by, reasons in _REASONS.items()
    for reason, names in reasons.items()
    for name in names
)
REFUSED_ALIASES: tuple[Alias, ...] = tuple(
    refused_alias(name, HUGGING_FACE, remedy) for name, remedy in _REMEDIES.items()
)
