"""Hyperparameters of training recipes, which are all off by default; docs/recipes.md names their sources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune.config.section import Section

LossName = Literal["cross_entropy", "focal", "logit_adjusted"]


class RecipeSpec(Section):
    """Recipes: regularization and losses that help for some data; see docs/recipes.md."""

    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Mixup of images and labels: alpha of the Beta distribution of their shares, such as 0.2.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=10,
        description="CutMix of images and labels: alpha of the Beta distribution of the area that is kept, such as 1. "
        "With mixup, each batch uses one of the two, with equal probability.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of an exponential moving average of the weights, such as 0.999, which is evaluated "
        "and exported in place of the weights.",
    )
    drop_path: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Stochastic depth: probability of skipping the last residual block in training, rising from 0 in "
        "the first; by default that of the model.",
    )
    loss: LossName = Field(
        "cross_entropy",
        description="Loss: cross-entropy, focal (weights records that are predicted well less), or logit_adjusted "
        "(adds the logarithms of the class frequencies to the logits in training, for balanced accuracy).",
    )
    focal_gamma: float = Field(2.0, ge=0, le=10, description="For loss=focal: exponent of the weight.")
    logit_adjustment: float = Field(
        1.0, gt=0, le=10, description="For loss=logit_adjusted: factor of the logarithms of the class frequencies."
    )
    sampler: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="Records of an epoch: each once in random order (shuffled), or as many drawn with replacement "
        "so that all classes are equally frequent (balanced).",
    )
    vertical_flip: bool = Field(False, description="Whether augmentation also flips half of the images vertically.")
    blur: float = Field(0.0, ge=0, le=1, description="Probability of a Gaussian blur of augmented images.")
    augmentation_strength: float = Field(
        1.0,
        gt=0,
        le=3,
        description="For augmentation=strong and trivial: factor of the magnitudes of operations, which are limited to "
        "their ranges.",
    )
    word_deletion: float = Field(
        0.0, ge=0, le=0.9, description="Augmentation of training texts: probability of deleting a word, such as 0.1."
    )
    word_swap: float = Field(
        0.0, ge=0, le=1, description="Augmentation of training texts: swaps of two words, per word, such as 0.1."
    )

    @property
    def augments_texts(self) -> bool:
        """Whether training texts are augmented."""
        return bool(self.word_deletion or self.word_swap)


IMAGE_AUGMENTATION = ("vertical_flip", "blur", "augmentation_strength")
"""Hyperparameters that change the augmentation of images."""
TEXT_AUGMENTATION = ("word_deletion", "word_swap")
"""Hyperparameters that augment texts."""
