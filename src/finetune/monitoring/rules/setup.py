"""Job setup that the advice of the rules depends on: effective hyperparameters and job properties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.config.optimizers import LearningRateInUse
from finetune.config.rules import DEFAULTS
from finetune.monitoring.score import BestMetric

MAX_LEARNING_RATE = 10.0
MAX_EPOCHS = 100_000
MAX_BATCH_SIZE = 65_536
"""Maximum values of the hyperparameters."""
EXCESSIVE = DEFAULTS["LearningRate"]["threshold"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Setup of a job for advice, which names only hyperparameters effective in it, with allowed values.

    Attributes:
        strategy: Name of the strategy.
        epochs: Requested epochs.
        learning_rates: Effective learning rates by the hyperparameter that sets them.
        learning_rates_set: Whether the user set one of them.
        usual_rates: The same with their usual ranges.
        guess_loss: Validation loss of predicting all classes with equal probability; infinite if unknown.
        trains_all_layers: Whether every layer group is trainable at the end of the plan.
        is_image_task: Whether the records are images.
        multi_label: Whether a record may have several labels.
        has_validation: Whether there are validation records.
        is_piped: Whether training records come in Pipe mode.
        augmentation: Effective augmentation, `none` if it has no effect.
        has_dropout: Whether a dropout above 0 is active in training.
        patience: Early stopping patience, or `None`.
        best_metric: Determines the best epoch.
        has_class_weights: Whether the loss weights rare classes more.
        clip_norm: Gradient clipping norm, or `None`.
        weight_decay: Effective weight decay.
        batch_size: Effective batch size.
        workers: Requested number of workers, or `None`.
        precision: `fp32`, `bf16` or `fp16`.
        max_length: Maximum length of texts in tokens; 1 for images, `None` if unknown.
        solves_head: Whether the head is solved, so that there are no gradient steps.
    """

    strategy: str = "full"
    epochs: int = 10
    learning_rates: Sequence[tuple[str, float]] = ()
    learning_rates_set: bool = False
    usual_rates: Sequence[LearningRateInUse] = ()
    guess_loss: float = math.inf
    trains_all_layers: bool = True
    is_image_task: bool = True
    multi_label: bool = False
    has_validation: bool = True
    is_piped: bool = False
    augmentation: str = "basic"
    has_dropout: bool = False
    patience: int | None = None
    best_metric: BestMetric = field(default_factory=BestMetric)
    has_class_weights: bool = False
    clip_norm: float | None = None
    weight_decay: float = 0.01
    batch_size: int = 32
    workers: int | None = None
    precision: str = "fp32"
    max_length: int | None = None
    solves_head: bool = False

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.strategy != "evaluate"

    def excessive_learning_rate(self, threshold: float = EXCESSIVE) -> LearningRateInUse | None:
        """Return the learning rate that exceeds `threshold` times the upper end of its usual range most, if any."""
        worst = max(self.usual_rates, key=lambda rate: rate.value / rate.highest, default=None)
        return worst if worst is not None and worst.value > threshold * worst.highest else None

    def reduce_learning_rate(self, rate: LearningRateInUse) -> str:
        """Advise the default of a learning rate, or an optimizer that it suits."""
        other = f", or optimizer={rate.suitable_optimizer}, for which {rate.value:g} is usual"
        return f"set {rate.hyperparameter}={rate.default:g}{other if rate.suitable_optimizer else ''}"

    def lower_learning_rate(self, factor: int) -> str:
        """Advise lower learning rates, such as `lower learning_rate to a tenth (learning_rate=2e-05)`."""
        names = {3: "a third", 10: "a tenth", 100: "a hundredth"}
        return f"lower {self._learning_rate_names()} to {names[factor]}{self._learning_rate_values(1 / factor)}"

    def raise_learning_rate(self, factor: int) -> str | None:
        """Advise higher learning rates; `None` if one is at its maximum, or far above its usual range."""
        if self.excessive_learning_rate() or any(value >= MAX_LEARNING_RATE for _, value in self.learning_rates):
            return None
        names = {3: "threefold", 10: "tenfold", 100: "a hundredfold"}
        return f"raise {self._learning_rate_names()} {names[factor]}{self._learning_rate_values(factor)}"

    def train_more_layers(self) -> str | None:
        """Advise training layers that stay frozen; `None` if there are none."""
        if self.trains_all_layers or not self.trains:
            return None
        if self.strategy == "gradual":
            return f"set epochs={max(5, self.epochs + 1)} to unfreeze all layers"
        # A learning rate chosen for the head would be far too high for pretrained layers.
        suffix = f", without {self._learning_rate_names()}" if self.learning_rates_set else ""
        return f"train more layers (strategy=full{suffix})"

    def train_fewer_layers(self) -> str | None:
        """Advise keeping more pretrained layers frozen; `None` if no strategy does."""
        if self.strategy == "from_scratch":
            return "start from pretrained weights (strategy=feature_extraction)"
        if self.strategy in {"auto", "full", "partial", "gradual"}:
            suffix = f", without {self._learning_rate_names()}" if self.learning_rates_set else ""
            return f"train fewer layers (strategy=feature_extraction{suffix})"
        return None

    def train_longer(self) -> str | None:
        """Advise twice the epochs; `None` at the maximum."""
        epochs = min(MAX_EPOCHS, max(5, 2 * self.epochs))
        return f"train longer (epochs={epochs})" if epochs > self.epochs else None

    def fit_better(self) -> str:
        """Advise on underfitting."""
        if not self.trains:
            return self.examine_model()
        excessive_rate = self.excessive_learning_rate()
        if excessive_rate is not None:
            return self.reduce_learning_rate(excessive_rate)
        more_layers = self.train_more_layers()
        if more_layers is not None:
            return more_layers
        higher_rate = self.raise_learning_rate(3)
        longer = self.train_longer()
        advice = _join_or([_join_and(longer, higher_rate), self._from_pretrained()])
        return advice or "check the labels of the training records"

    def generalize_better(self) -> str:
        """Advise on overfitting."""
        if not self.trains:
            return self.examine_model()
        options = [
            "set augmentation=strong" if self.is_image_task and self.augmentation == "basic" else None,
            self.train_fewer_layers(),
            None
            if self.solves_head or self.weight_decay >= 1
            else f"set weight_decay={min(1.0, max(0.1, 10 * self.weight_decay)):g}",
        ]
        return _join_or([next((option for option in options if option), None), "add training records"]) or ""

    def balance_classes(self) -> str:
        """Advise on classes with few records."""
        if self.trains and not self.has_class_weights:
            return "set class_weights=balanced, or add records of the rare classes"
        return "add records of the rare classes"

    def examine_model(self) -> str:
        """Advise on a model that is evaluated without training."""
        return (
            "check that the classes are in the order of the model (class_names), or train it on these records"
            " (strategy=feature_extraction)"
        )

    def more_workers(self) -> str:
        """Advise preparing batches earlier."""
        if self.workers is not None:
            return "leave workers unset to add worker threads automatically"
        return "choose an instance with more cores"

    def larger_batches(self) -> str | None:
        """Advise twice the batch size; `None` at the maximum."""
        return (
            f"double batch_size (batch_size={2 * self.batch_size})" if 2 * self.batch_size <= MAX_BATCH_SIZE else None
        )

    def _from_pretrained(self) -> str | None:
        return self.train_fewer_layers() if self.strategy == "from_scratch" else None

    def _learning_rate_names(self) -> str:
        return " and ".join(name for name, _ in self.learning_rates) or "learning_rate"

    def _learning_rate_values(self, factor: float) -> str:
        if not self.learning_rates:
            return ""
        values = (f"{name}={min(MAX_LEARNING_RATE, value * factor):.3g}" for name, value in self.learning_rates)
        return f" ({', '.join(values)})"


def guess_loss(classes: int, *, multi_label: bool) -> float:
    """Return the loss of predicting all classes with equal probability."""
    return math.log(2 if multi_label else classes)


def sentence(text: str) -> str:
    """Return the text with a full stop."""
    return text if text.endswith(".") else text + "."


def _join_and(first: str | None, second: str | None) -> str | None:
    return " and ".join(part for part in (first, second) if part) or None


def _join_or(options: Sequence[str | None]) -> str | None:
    return ", or ".join(option for option in options if option) or None
