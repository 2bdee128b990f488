"""Checks the recipes of a job against its model and data, and describes them for the plan."""

from __future__ import annotations

from finetune.config.hyperparameters import JobSpec
from finetune.errors import UserError
from finetune.features.plan import CachePlan
from finetune.models.backbone import Backbone
from finetune.models.drop_path import set_drop_path


def check_recipes(spec: JobSpec, cache_plan: CachePlan, *, piped: bool) -> None:
    """Check that the recipes of a job can be applied to its inputs.

    Args:
        spec: hyperparameters.
        cache_plan: caching of the frozen layers.
        piped: whether the training records are streamed.

    Raises:
        UserError: one of them cannot.
    """
    if not spec.strategy.trains:
        return
    if piped and spec.recipes.sampler == "balanced":
        raise UserError(
            "sampler='balanced' draws records in any order, and the channel 'train' is in Pipe mode: use File or"
            " FastFile mode, or class_weights=balanced."
        )
    if spec.recipes.cutmix and _is_image_job(cache_plan) and freezes(cache_plan):
        raise UserError(
            f"cutmix={spec.recipes.cutmix:g} pastes rectangles of images, but strategy={spec.strategy.name} trains on"
            " the outputs of frozen layers: use mixup, which also mixes these, or strategy=full."
        )


def use_drop_path(spec: JobSpec, backbone: Backbone) -> None:
    """Set the stochastic depth of the model that is trained.

    Raises:
        UserError: the model has none.
    """
    rate = spec.recipes.drop_path
    if rate is None or not spec.strategy.trains or spec.strategy.trains_head_only:
        return
    if not set_drop_path(backbone.module, rate):
        raise UserError(
            f"drop_path={rate:g}, but {backbone.name} has no stochastic depth: remove drop_path, or use a model with"
            " it, such as convnext_tiny, swin_t or the vision transformers of timm."
        )


def recipe_lines(spec: JobSpec, cache_plan: CachePlan) -> list[str]:
    """One line for the plan with the recipes in use; none if all are off."""
    if not spec.strategy.trains:
        return []
    recipes, parts = spec.recipes, list[str]()
    if _is_image_job(cache_plan):
        mixed = "images and outputs of frozen layers" if freezes(cache_plan) else "images"
        parts += [f"mixup of {mixed} (alpha {recipes.mixup:g})"] if recipes.mixup else []
        if any(map(cache_plan.augments, cache_plan.plan.phases)):
            parts += ["vertical flip"] if recipes.vertical_flip else []
            parts += [f"blur of {recipes.blur:.0%}"] if recipes.blur else []
        parts += [f"CutMix (alpha {recipes.cutmix:g})"] if recipes.cutmix else []
    elif any(map(cache_plan.augments, cache_plan.plan.phases)):
        parts += [f"deletion of {recipes.word_deletion:.0%} of the words"] if recipes.word_deletion else []
        parts += [f"swaps of {recipes.word_swap:.0%} of the words"] if recipes.word_swap else []
    if recipes.drop_path is not None and not spec.strategy.trains_head_only:
        parts.append(f"stochastic depth up to {recipes.drop_path:g}")
    parts += ["classes drawn equally often"] if recipes.sampler == "balanced" else []
    parts += [f"focal loss (gamma {recipes.focal_gamma:g})"] if recipes.loss == "focal" else []
    parts += [f"logit-adjusted loss ({recipes.logit_adjustment:g})"] if recipes.loss == "logit_adjusted" else []
    parts += [f"average of the weights (decay {recipes.ema_decay:g})"] if recipes.ema_decay else []
    return [f"recipes   {', '.join(parts)}"] if parts else []


def balances_classes(spec: JobSpec) -> bool:
    """Whether a hyperparameter compensates for classes of different sizes."""
    recipes = spec.recipes
    return (
        spec.optimization.class_weights != "none" or recipes.loss == "logit_adjusted" or recipes.sampler == "balanced"
    )


def freezes(cache_plan: CachePlan) -> bool:
    """Whether the first layers are frozen in some phase, so that their outputs are the inputs of training."""
    return any(map(cache_plan.split_index, cache_plan.plan.phases))


def _is_image_job(cache_plan: CachePlan) -> bool:
    return cache_plan.backbone.expects.modality == "image"
