"""Hyperparameter names of other tools are translated, and the log says so."""

from __future__ import annotations

import pytest

from finetune.config.compat.aliases import ALIASES, SYNONYMS
from finetune.config.descriptions import all_hyperparameters
from finetune.config.hyperparameters import JobSpec
from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError

# The defaults in the documentation of each algorithm, all at once, as its clients send them.
MXNET_DEFAULTS = {
    "num_classes": "10", "num_training_samples": "1000", "augmentation_type": "crop_color_transform",
    "beta_1": "0.9", "beta_2": "0.999", "checkpoint_frequency": "1", "early_stopping": "False",
    "early_stopping_min_epochs": "10", "early_stopping_patience": "5", "early_stopping_tolerance": "0.0",
    "epochs": "30", "eps": "1e-8", "gamma": "0.9", "image_shape": "3,224,224", "kv_store": "dist_sync",
    "learning_rate": "0.1", "lr_scheduler_factor": "0.1", "lr_scheduler_step": "10,20", "mini_batch_size": "32",
    "momentum": "0.9", "multi_label": "0", "num_layers": "152", "optimizer": "sgd", "precision_dtype": "float32",
    "resize": "256", "top_k": "2", "use_pretrained_model": "0", "use_weighted_loss": "0", "weight_decay": "0.0001",
}  # fmt: skip
TENSORFLOW_IMAGE_DEFAULTS = {
    "augmentation": "False", "augmentation_random_flip": "horizontal_and_vertical",
    "augmentation_random_rotation": "0.2", "augmentation_random_zoom": "0.1", "batch_size": "32", "beta_1": "0.9",
    "beta_2": "0.999", "binary_mode": "False", "dropout_rate": "0.2", "early_stopping": "False",
    "early_stopping_min_delta": "0.0", "early_stopping_patience": "5", "epochs": "3", "epsilon": "1e-7",
    "eval_metric": "accuracy", "image_resize_interpolation": "bilinear", "initial_accumulator_value": "0.0001",
    "label_smoothing": "0.1", "learning_rate": "0.001", "momentum": "0.9", "optimizer": "adam",
    "regularizers_l2": "0.0001", "reinitialize_top_layer": "Auto", "rho": "0.95", "train_only_top_layer": "False",
    "train_only_on_top_layer": "False", "sagemaker_program": "transfer_learning.py",
}  # fmt: skip
TENSORFLOW_TEXT_DEFAULTS = {
    "batch_size": "32", "beta_1": "0.9", "beta_2": "0.999", "dropout_rate": "0.2", "early_stopping": "False",
    "early_stopping_min_delta": "0.0", "early_stopping_patience": "5", "epochs": "10", "epsilon": "1e-7",
    "initial_accumulator_value": "0.0001", "learning_rate": "0.001", "momentum": "0.9", "optimizer": "adam",
    "regularizers_l2": "0.0001", "reinitialize_top_layer": "Auto", "rho": "0.95", "train_only_on_top_layer": "False",
    "validation_split_ratio": "0.2", "warmup_steps_fraction": "0.1",
}  # fmt: skip
BLAZING_DEFAULTS = {
    "mode": "supervised", "buckets": "2000000", "early_stopping": "False", "epochs": "5", "learning_rate": "0.05",
    "min_count": "5", "min_epochs": "5", "patience": "4", "vector_dim": "100", "word_ngrams": "2",
}  # fmt: skip
JUMPSTART_DEFAULTS = {"epochs": "3", "adam-learning-rate": "0.05", "batch-size": "4", "train-only-top-layer": "True"}


def spec_of(**raw: str) -> JobSpec:
    return parse_hyperparameters(raw)


def message_for(**raw: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    return str(caught.value)


@pytest.mark.parametrize(
    "defaults",
    [MXNET_DEFAULTS, TENSORFLOW_IMAGE_DEFAULTS, TENSORFLOW_TEXT_DEFAULTS, BLAZING_DEFAULTS, JUMPSTART_DEFAULTS],
)
def test_default_requests_of_other_algorithms_are_accepted(defaults: dict[str, str]) -> None:
    spec = parse_hyperparameters(defaults)
    assert spec.optimization.epochs == int(defaults["epochs"])


def test_no_alias_is_a_hyperparameter_name() -> None:
    assert not ALIASES.keys() & all_hyperparameters().keys()


def test_synonyms_map_to_allowed_values() -> None:
    for (name, word), equivalent in SYNONYMS.items():
        assert equivalent in (*all_hyperparameters()[name].format.choices, "None")
        assert word not in all_hyperparameters()[name].format.choices


@pytest.mark.parametrize(
    ("raw", "strategy"),
    [
        ({"use_pretrained_model": "1"}, "full"),
        ({"use_pretrained_model": "0"}, "from_scratch"),
        ({"train_only_top_layer": "True"}, "feature_extraction"),
        ({"train_only_top_layer": "False"}, "full"),
        ({"use_pretrained_model": "1", "train_only_top_layer": "True"}, "feature_extraction"),
        ({"use_pretrained_model": "0", "train_only_top_layer": "False"}, "from_scratch"),
        ({"use_pretrained_model": "1", "strategy": "partial"}, "partial"),
        ({"use_pretrained_model": '"1"', "strategy": '"Feature-Extraction"'}, "feature_extraction"),
        ({"train_only_on_top_layer": "False", "strategy": "gradual"}, "gradual"),
    ],
)
def test_strategy_is_compatible_with_all_aliases(raw: dict[str, str], strategy: str) -> None:
    assert parse_hyperparameters(raw).strategy.name == strategy


@pytest.mark.parametrize(
    "raw",
    [
        {"use_pretrained_model": "0", "strategy": "full"},
        {"use_pretrained_model": "1", "strategy": "from_scratch"},
        {"use_pretrained_model": "0", "train_only_top_layer": "True"},
        {"mini_batch_size": "32", "batch_size": "64"},
        {"batch-size": "32", "batch_size": "64"},
        {"num_layers": "50", "model_name": "resnet18"},
        {"lr_scheduler_step": "10", "lr_schedule": "cosine"},
        {"fp16": "True", "bf16": "True"},
    ],
)
def test_conflicting_names_are_reported_together(raw: dict[str, str]) -> None:
    message = message_for(**raw)
    assert "conflict" in message
    assert all(f"{name}={value!r}" in message for name, value in raw.items())


def test_same_value_under_two_names_is_accepted() -> None:
    assert spec_of(mini_batch_size="64", batch_size="64.0").optimization.batch_size == 64


def test_translations_are_reported() -> None:
    raw = {"lr_scheduler_step": "10,20", "num_layers": "50", "image_shape": "3, 224, 224", "optimizer": "nesterov"}
    spec = spec_of(**raw, epochs="30")
    assert spec.optimization.lr_schedule == "step"
    assert spec.optimization.lr_step_epochs == (10, 20)
    assert (spec.model.name, spec.data.image_size, spec.optimization.optimizer) == ("resnet50", 224, "nag")
    assert spec.notes == (
        "lr_scheduler_step='10,20' is read as lr_step_epochs=10,20 and lr_schedule=step.",
        "num_layers='50' is read as model_name=resnet50.",
        "image_shape='3, 224, 224' is read as image_size=224.",
        "optimizer='nesterov' is read as optimizer=nag.",
    )


def test_random_seed_is_ignored_if_seed_is_set() -> None:
    assert spec_of(random_seed="3").run.seed == 3
    spec = spec_of(random_seed="3", seed="4")
    assert spec.run.seed == 4
    assert spec.notes == ("random_seed='3' is ignored: seed is set too and determines all random numbers.",)


def test_last_epoch_is_exported_if_the_best_is_not_to_be_loaded() -> None:
    assert spec_of(load_best_model_at_end="True").optimization.best_metric == "loss"
    assert spec_of(load_best_model_at_end="False").optimization.best_metric == "none"


@pytest.mark.parametrize(
    ("name", "best_metric"),
    [("eval_loss", "loss"), ("f1", "macro_f1"), ("eval_roc_auc", "auc"), ("ACCURACY", "accuracy")],
)
def test_metric_for_best_model_is_translated(name: str, best_metric: str) -> None:
    spec = spec_of(metric_for_best_model=name, load_best_model_at_end="true")
    assert spec.optimization.best_metric == best_metric


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        ({"metric_for_best_model": "eval_bleu"}, "metric_for_best_model='eval_bleu' is not supported: expected one of"),
        ({"best_metric": "micro_f1"}, "best_metric='micro_f1' needs multi_label=true"),
        ({"best_metric": "target"}, "best_metric='target' needs target_precision or target_recall"),
        ({"best_metric": "none", "early_stopping_patience": "3"}, "early_stopping_patience needs a metric"),
    ],
)
def test_best_metric_that_no_job_has_is_refused(raw: dict[str, str], cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        parse_hyperparameters(raw)


def test_reported_values_have_no_json_quotes() -> None:
    assert spec_of(num_layers='"50"').notes == ("num_layers='50' is read as model_name=resnet50.",)


def test_ignored_names_are_reported_with_reason() -> None:
    assert spec_of(kv_store="dist_async").notes == (
        "kv_store='dist_async' is ignored: all devices exchange gradients in every step.",
    )


@pytest.mark.parametrize(
    ("raw", "patience"),
    [
        ({"early_stopping": "True"}, 5),
        ({"early_stopping": "True", "early_stopping_patience": "3"}, 3),
        ({"early_stopping": "True", "patience": "3"}, 3),
        ({"early_stopping": "False", "early_stopping_patience": "3"}, None),
        ({"early_stopping": "False", "patience": "4"}, None),
        ({"early_stopping": "False"}, None),
        ({"early_stopping_patience": "3"}, 3),
    ],
)
def test_early_stopping_switch_overrides_patience(raw: dict[str, str], patience: int | None) -> None:
    assert parse_hyperparameters(raw).optimization.early_stopping_patience == patience


def test_overridden_patience_is_reported() -> None:
    assert "patience='4' is ignored: early_stopping='False'." in spec_of(early_stopping="False", patience="4").notes


@pytest.mark.parametrize(
    "raw",
    [
        {"num_layers": "20"},
        {"image_shape": "1,28,28"},
        {"image_shape": "3,224,112"},
        {"image_shape": "224"},
        {"augmentation_type": "mixup"},
        {"mode": "skipgram"},
        {"lr_scheduler_type": "inverse_sqrt"},
        {"lr_scheduler_kwargs": "two"},
        {"lr_scheduler_kwargs": '{"num_cycles": 3}'},
        {"eval_metric": "precision"},
        {"early_stopping": "later"},
        {"dataset_name": "beans"},
        {"task_name": "mrpc"},
    ],
)
def test_values_without_equivalent_are_rejected(raw: dict[str, str]) -> None:
    name, value = next(iter(raw.items()))
    assert message_for(**raw).startswith(f"{name}={value!r} is not supported: ")


@pytest.mark.parametrize(
    ("raw", "remedy"),
    [
        ({"num_layers": "20"}, "use num_layers=18"),
        ({"image_shape": "1,28,28"}, "use 3,28,28"),
        ({"image_shape": "3,224,112"}, "use 3,112,112"),
        ({"dataset_name": "beans"}, "pass it as channel 'train'"),
    ],
)
def test_refusals_say_what_to_do(raw: dict[str, str], remedy: str) -> None:
    assert remedy in message_for(**raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"hub_token": "abcdefgh"},
        {"use_auth_token": "abcdefgh"},
        {"HF_TOKEN": "abcdefgh"},
        {"run_name": "hf_abcdefgh"},
        {"model_name": "hf_abcdefgh", "num_layers": "18"},
        {"my_token": "abcdefgh"},
    ],
)
def test_tokens_are_never_shown(raw: dict[str, str]) -> None:
    try:
        shown = " ".join(parse_hyperparameters(raw).notes)
    except UserError as error:
        shown = str(error)
    assert shown
    assert "abcdefgh" not in shown


def test_invalid_value_of_alias_is_reported_under_alias() -> None:
    assert message_for(num_train_epochs="ten").startswith(
        "num_train_epochs='ten' is not allowed: epochs must be an integer,"
    )


@pytest.mark.parametrize(
    ("raw", "section", "field", "value"),
    [
        ({"num_layers": "50.0"}, "model", "name", "resnet50"),
        ({"use_pretrained_model": "0.0"}, "strategy", "name", "from_scratch"),
        ({"use_pretrained_model": '"1.0"'}, "strategy", "name", "full"),
        ({"lr_scheduler_step": '["10","20"]'}, "optimization", "lr_step_epochs", (10, 20)),
        ({"lr_scheduler_step": "[10.0, 20.0]"}, "optimization", "lr_step_epochs", (10, 20)),
        ({"class_names": "['ash', 'birch']"}, "data", "class_names", ("ash", "birch")),
        ({"attribute_names": "('source-ref', 'class')"}, "data", "attribute_names", ("source-ref", "class")),
        ({"epochs": "5.0", "multi_label": "1.0"}, "data", "multi_label", True),
    ],
)
def test_values_written_by_sdks_are_parsed(raw: dict[str, str], section: str, field: str, value: object) -> None:
    assert getattr(getattr(parse_hyperparameters(raw), section), field) == value


@pytest.mark.parametrize("text", ['{"ash": 0, "birch": 1}', "{'ash': 0, 'birch': 1}", "['ash' 'birch']"])
def test_other_containers_are_rejected_where_list_is_expected(text: str) -> None:
    with pytest.raises(UserError, match=r"class_names=.* is not allowed: expected a list of strings"):
        parse_hyperparameters({"class_names": text})
