"""Aliases whose translation needs a function instead of a table."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.config.compat.alias import ANY, Alias, Assignment, Translation
from finetune.config.values import ValueFormat, parse_bool, parse_value, unquote

# Default of the platform's image and text classification if patience is not given.
DEFAULT_PATIENCE = "5"
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
# Fixed decay of rmsprop in this project, the default of PyTorch.
RMSPROP_DECAY = 0.99


def _image_shape(text: str, _: Mapping[str, str]) -> Translation:
    allowed = "channels, height and width of a square image with 3 channels, such as 3,224,224"
    try:
        sides = parse_value(text, ValueFormat("list of integers"))
    except ValueError:
        raise ValueError(allowed) from None
    if not isinstance(sides, tuple) or len(sides) != 3 or sides[0] != 3 or sides[1] != sides[2]:
        raise ValueError(allowed)
    return Translation((Assignment("image_size", str(sides[1])),))


def _lr_scheduler_step(text: str, _: Mapping[str, str]) -> Translation:
    if not unquote(text):
        return Translation()
    return Translation((Assignment("lr_step_epochs", text), Assignment("lr_schedule", "step")))


def _switch(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError("true or false") from None


def _load_best_model_at_end(text: str, _: Mapping[str, str]) -> Translation:
    return Translation() if _switch(text) else Translation((Assignment("best_metric", "none"),))


def _metric_for_best_model(text: str, _: Mapping[str, str]) -> Translation:
    name = unquote(text).lower().removeprefix("eval_")
    metric = _BEST_METRICS.get(name)
    if metric is None:
        raise ValueError(f"one of {', '.join(_BEST_METRICS)}; see best_metric")
    return Translation((Assignment("best_metric", metric),))


def _early_stopping(text: str, request: Mapping[str, str]) -> Translation:
    if _switch(text):
        return Translation((Assignment("early_stopping_patience", DEFAULT_PATIENCE, compatible=ANY),))
    patience_names = {"early_stopping_patience", "patience"} & request.keys()
    return Translation((Assignment("early_stopping_patience", "None", overrides=True),) if patience_names else ())


def _decay_of_squares(text: str, request: Mapping[str, str]) -> Translation:
    if unquote(request.get("optimizer", "adamw")).lower() != "rmsprop":
        return Translation(ignored_reason="it is an option of optimizer=rmsprop, which is not used")
    try:
        decay = float(unquote(text))
    except ValueError:
        decay = -1.0
    if decay != RMSPROP_DECAY:
        raise ValueError(f"{RMSPROP_DECAY} for optimizer=rmsprop; remove it")
    return Translation()


def _warmup_steps(text: str, _: Mapping[str, str]) -> Translation:
    if _number(text) != 0:
        raise ValueError("0; use warmup_fraction, the fraction of steps used for warm-up")
    return Translation()


def _max_steps(text: str, _: Mapping[str, str]) -> Translation:
    if _number(text) >= 0:
        raise ValueError("-1; use epochs to set the length of training")
    return Translation()


def _number(text: str) -> float:
    try:
        return float(unquote(text))
    except ValueError:
        raise ValueError("an integer") from None


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
        "lr_scheduler_step",
        "image classification (MXNet)",
        "`10,20`: `lr_step_epochs=10,20` and `lr_schedule=step`",
        _lr_scheduler_step,
    ),
    Alias(
        "early_stopping",
        "image classification (MXNet), image and text classification (TensorFlow), BlazingText",
        f"`true`: `early_stopping_patience={DEFAULT_PATIENCE}` unless it is set; `false`:"
        " `early_stopping_patience=None`, even if it is set",
        _early_stopping,
    ),
    *(
        Alias(
            name,
            used_by,
            f"ignored; for `optimizer=rmsprop`, values other than {RMSPROP_DECAY} are rejected",
            _decay_of_squares,
        )
        for name, used_by in (
            ("gamma", "image classification (MXNet)"),
            ("rho", "image and text classification (TensorFlow)"),
        )
    ),
    Alias(
        "load_best_model_at_end",
        "Hugging Face Trainer",
        "`true`: no change; `false`: `best_metric=none`",
        _load_best_model_at_end,
    ),
    Alias(
        "metric_for_best_model",
        "Hugging Face Trainer",
        "`best_metric`, with or without `eval_`; `f1` is `macro_f1`, and `roc_auc` is `auc`",
        _metric_for_best_model,
    ),
    Alias(
        "warmup_steps",
        "Hugging Face Trainer",
        "`0`: no change; otherwise rejected, see `warmup_fraction`",
        _warmup_steps,
    ),
    Alias("max_steps", "Hugging Face Trainer", "`-1`: no change; otherwise rejected, see `epochs`", _max_steps),
    Alias("random_seed", "JumpStart", "`seed`, unless that is set too", _random_seed),
)
