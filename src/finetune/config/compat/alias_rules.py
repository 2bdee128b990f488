"""Aliases whose translation needs a function instead of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping

from finetune.config.compat.alias import ANY, Alias, Assignment, Translation, UnsupportedError
from finetune.config.values import ValueFormat, normalize_word, parse_bool, parse_value, unquote

# Default of the platform's image and text classification if patience is not given.
DEFAULT_PATIENCE = "5"
BLAZINGTEXT_PATIENCE = "4"
_BEST_METRICS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "f1": "macro_f1",
    "f1_macro": "macro_f1",
    "macro_f1": "macro_f1",
    "f1_micro": "micro_f1",
    "micro_f1": "micro_f1",
    "roc_auc": "auc",
    "auc": "auc",
}
_EVAL_METRICS = {"accuracy": "accuracy", "auc": "auc"}
_DEPTHS = ("18", "34", "50", "101", "152")


def _image_shape(text: str, _: Mapping[str, str]) -> Translation:
    allowed = "channels, height and width of a square image with 3 channels, such as 3,224,224"
    try:
        sides = parse_value(text, ValueFormat("list of integers"))
    except ValueError:
        raise ValueError(allowed) from None
    if not isinstance(sides, tuple) or len(sides) != 3:
        raise ValueError(allowed)
    channels, height, width = sides
    if height != width:
        raise UnsupportedError(
            f"the input of the model is square; use 3,{min(height, width)},{min(height, width)}, to which images are"
            " resized and cropped in the center"
        )
    if channels != 3:
        raise UnsupportedError(f"images are converted to 3 channels, also gray ones; use 3,{height},{width}")
    return Translation((Assignment("image_size", str(height)),))


def _num_layers(text: str, _: Mapping[str, str]) -> Translation:
    depth = normalize_word(text)
    if depth in _DEPTHS:
        return Translation((Assignment("model_name", f"resnet{depth}"),))
    raise UnsupportedError(
        f"there are ResNets of {', '.join(_DEPTHS)} layers; for small images, use num_layers=18 with their image_shape,"
        " such as 3,32,32"
    )


def _use_weighted_loss(text: str, request: Mapping[str, str]) -> Translation:
    weighted = _switch(text)
    if weighted and not _switch(request.get("multi_label", "false")):
        return Translation(ignored_reason="it applies to several labels per record, and multi_label is not set")
    return Translation((Assignment("class_weights", "balanced" if weighted else "none"),))


def _eval_metric(text: str, _: Mapping[str, str]) -> Translation:
    metric = _EVAL_METRICS.get(normalize_word(text))
    if metric is None:
        raise UnsupportedError("epochs are compared by accuracy or auc; for precision or recall, set target_precision")
    return Translation((Assignment("best_metric", metric),))


def _lr_scheduler_kwargs(text: str, _: Mapping[str, str]) -> Translation:
    try:
        options = json.loads(unquote(text) or "{}")
    except ValueError:
        raise ValueError("a JSON object") from None
    defaults = {"num_cycles": (0.5, 1), "power": (1,), "lr_end": (0, 1e-7)}
    if isinstance(options, dict) and all(value in defaults.get(name, ()) for name, value in options.items()):
        return Translation()
    raise UnsupportedError("learning rate schedules have no such options; see lr_schedule")


def _lr_scheduler_step(text: str, _: Mapping[str, str]) -> Translation:
    if not unquote(text):
        return Translation()
    return Translation((Assignment("lr_step_epochs", text), Assignment("lr_schedule", "step")))


def _switch(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError("true or false") from None


def _load_best_model_at_end(text: str, request: Mapping[str, str]) -> Translation:
    if _switch(text):
        return Translation((Assignment("best_metric", "loss", compatible=ANY),))
    return Translation((Assignment("best_metric", "none", overrides="best_metric" not in request),))


def _metric_for_best_model(text: str, _: Mapping[str, str]) -> Translation:
    name = unquote(text).lower().removeprefix("eval_")
    metric = _BEST_METRICS.get(name)
    if metric is None:
        raise ValueError(f"one of {', '.join(_BEST_METRICS)}; see best_metric")
    return Translation((Assignment("best_metric", metric),))


def _early_stopping(text: str, request: Mapping[str, str]) -> Translation:
    if _switch(text):
        patience = BLAZINGTEXT_PATIENCE if "mode" in request else DEFAULT_PATIENCE
        return Translation((Assignment("early_stopping_patience", patience, compatible=ANY),))
    patience_names = {"early_stopping_patience", "patience"} & request.keys()
    return Translation((Assignment("early_stopping_patience", "None", overrides=True),) if patience_names else ())


def _random_seed(text: str, request: Mapping[str, str]) -> Translation:
    if "seed" in request:
        return Translation(ignored_reason="seed is set too and determines all random numbers")
    return Translation((Assignment("seed", text),))


FUNCTION_ALIASES = (
    Alias(
        "image_shape",
        "image classification (MXNet)",
        "`3,224,224`: `image_size=224`; other shapes are rejected",
        _image_shape,
    ),
    Alias(
        "num_layers",
        "image classification (MXNet)",
        f"{', '.join(f'`{depth}`' for depth in _DEPTHS)}: `model_name=resnet18` and so on; other depths are rejected",
        _num_layers,
    ),
    Alias(
        "use_weighted_loss",
        "image classification (MXNet)",
        "`true` with `multi_label`: `class_weights=balanced`; `false`: `class_weights=none`",
        _use_weighted_loss,
    ),
    Alias(
        "eval_metric",
        "JumpStart",
        "`accuracy`, `auc`: `best_metric`; other metrics are rejected",
        _eval_metric,
    ),
    Alias(
        "lr_scheduler_kwargs",
        "Hugging Face Trainer",
        "no change if they are the defaults of the schedule; otherwise rejected",
        _lr_scheduler_kwargs,
    ),
    Alias(
        "lr_scheduler_step",
        "image classification (MXNet)",
        "`10,20`: `lr_step_epochs=10,20` and `lr_schedule=step`",
        _lr_scheduler_step,
    ),
    Alias(
        "early_stopping",
        "image classification (MXNet), image and text classification (TensorFlow), BlazingText",
        f"`true`: `early_stopping_patience={DEFAULT_PATIENCE}` ({BLAZINGTEXT_PATIENCE} for BlazingText) unless it is"
        " set; `false`:"
        " `early_stopping_patience=None`, even if it is set",
        _early_stopping,
    ),
    Alias(
        "load_best_model_at_end",
        "Hugging Face Trainer",
        "`true`: `best_metric=loss` unless `metric_for_best_model` or `best_metric` is set; `false`:"
        " `best_metric=none`",
        _load_best_model_at_end,
    ),
    Alias(
        "metric_for_best_model",
        "Hugging Face Trainer",
        "`best_metric`, with or without `eval_`; `f1` is `macro_f1`, and `roc_auc` is `auc`",
        _metric_for_best_model,
    ),
    Alias("random_seed", "JumpStart", "`seed`, unless that is set too", _random_seed),
)
