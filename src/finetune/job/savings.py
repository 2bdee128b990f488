"""Plan lines about caching: what is cached, the passes it saves, and the augmentation it replaces."""

from __future__ import annotations

from finetune.data.transforms.augmentation import augmentation_source_bytes
from finetune.features.plan import CachePlan
from finetune.job.inputs import Inputs
from finetune.job.loaders import image_geometry
from finetune.models.backbone import ImageInput


def feature_lines(frozen: CachePlan, parts: int, *, counted: bool) -> list[str]:
    """Describe the caching of frozen layer outputs: passes saved and augmentation lost.

    Args:
        frozen: caching decisions.
        parts: number of parts among train, validation and test.
        counted: whether the number of training records is known.
    """
    phases = [phase for phase in frozen.plan.phases if frozen.split_index(phase)]
    if not phases or not parts:
        return []
    last = frozen.plan.groups[frozen.split_index(phases[0]) - 1]
    if not counted:
        return [
            f"features  outputs of frozen layers (up to {last}) are computed in every epoch: nobody says how many"
            " records there are (num_training_samples)"
        ]
    if not any(frozen.reuses_features(phase) for phase in phases):
        return [
            f"features  outputs of frozen layers (up to {last}) are computed in every epoch: none is asked for again"
        ]
    epochs, views = sum(frozen.epochs(phase) for phase in phases), frozen.views
    count = sum(min(views, frozen.epochs(phase)) for phase in phases)
    passes = "1 pass" if count == 1 else f"{count} passes"
    given_up = "without augmentation" if views == 1 else f"{views} augmentations of each picture instead of {epochs}"
    if frozen.spec.data.augmentation == "none" or not isinstance(frozen.backbone.expects, ImageInput):
        given_up = "nothing is given up"
    return [
        f"features  outputs of frozen layers (up to {last}) are kept: {passes} through them instead of {epochs};"
        f" {given_up} (augmentation_views, feature_cache=off)"
    ]


def picture_lines(frozen: CachePlan, inputs: Inputs) -> list[str]:
    """Describe the caching of decoded images that are used in several passes."""
    expects, train, passes = frozen.backbone.expects, inputs.train, frozen.passes
    if max(passes.plain, passes.augmented) < 2 or not isinstance(expects, ImageInput) or train is None:
        return []
    together = passes.plain + passes.augmented
    if frozen.spec.features.size_gb == 0:
        return [f"pictures  are decoded in each of {together} passes over them: cache_size_gb is 0"]
    geometry = image_geometry(expects)
    plain = 3 * expects.size**2 if passes.plain > 1 else 0
    varied = augmentation_source_bytes(geometry) if passes.augmented > 1 else 0
    kept = "resized; augmentation starts from them" if varied else "resized and cropped"
    if passes.plain and passes.augmented:
        kept += ", those without augmentation apart"
    times, each = "twice" if passes.plain and passes.augmented else "once", max(plain, varied)
    size = f"at most about {each / 1e3:,.0f} kB each, {each * len(train.indices) / 1e9:,.2f} GB for training"
    return [
        f"pictures  are decoded {times} instead of in each of {together} passes over them, and kept {kept}: {size},"
        " as far as there is room (cache_size_gb); nothing is given up"
    ]
