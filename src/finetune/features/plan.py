"""Cache plan of the frozen layers: split index, cached views, and number of passes over the images."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.hyperparameters import JobSpec
from finetune.models.backbone import Backbone
from finetune.runtime.precision import Numerics
from finetune.strategies.plan import Phase, Plan


@dataclass(frozen=True, slots=True)
class ImagePasses:
    """Number of passes of a job over its images.

    Attributes:
        plain: passes over the training images without augmentation.
        augmented: passes over the training images with augmentation.
        validation: passes over the validation images.
    """

    plain: int
    augmented: int
    validation: int

    @property
    def maximum(self) -> int:
        """The largest of the three numbers."""
        return max(self.plain, self.augmented, self.validation)


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Cache plan, derived from the frozen layers of each phase.

    Attributes:
        backbone: model.
        plan: trainable layer groups of each phase.
        spec: hyperparameters.
        numerics: device and floating-point types.
    """

    backbone: Backbone
    plan: Plan
    spec: JobSpec
    numerics: Numerics

    @property
    def is_cache_enabled(self) -> bool:
        """Whether the hyperparameters allow caching features."""
        return self.spec.features.cache == "auto"

    @property
    def is_augmented(self) -> bool:
        """Whether training records are augmented, at least where no features of them are cached."""
        if not self.backbone.expects.is_augmentable:
            return self.spec.recipes.augments_texts
        return self.spec.data.augmentation != "none"

    @property
    def views(self) -> int:
        """Number of augmented views per image that epochs cycle through."""
        if not self.is_augmented:
            return 1
        if not self.is_cache_enabled:
            return self.spec.optimization.epochs
        # Texts have no cached views.
        return (self.spec.features.views or 1) if self.backbone.expects.is_augmentable else 1

    def split_index(self, phase: Phase) -> int:
        """Return the number of layer groups in the frozen prefix of a phase; 0 without trainable groups."""
        return self.plan.split_index(phase) if phase.trainable else 0

    def epochs(self, phase: Phase) -> int:
        """Return the number of epochs of a phase."""
        later_starts = [later.first_epoch for later in self.plan.phases if later.first_epoch > phase.first_epoch]
        return min(later_starts, default=self.spec.optimization.epochs) - phase.first_epoch

    def augments(self, phase: Phase) -> bool:
        """Return whether a phase augments its images."""
        return self.views > 1 if self.split_index(phase) else self.is_augmented

    def reuses_features(self, phase: Phase) -> bool:
        """Return whether features of training records are used more than once within the phase."""
        return self.is_cache_enabled and self.epochs(phase) > self.views

    def passes_over(self, phase: Phase) -> int:
        """Return the number of passes of a phase over the training images, or of texts through the frozen layers."""
        epochs = self.epochs(phase)
        return min(self.views, epochs) if self.is_cache_enabled and self.split_index(phase) else epochs

    @property
    def passes(self) -> ImagePasses:
        """Number of passes of the whole job over its images."""
        if self.backbone.expects.modality != "image":
            return ImagePasses(0, 0, 0)
        phases = [phase for phase in self.plan.phases if phase.trainable]
        return ImagePasses(
            plain=sum(self.passes_over(phase) for phase in phases if not self.augments(phase)),
            augmented=sum(self.passes_over(phase) for phase in phases if self.augments(phase)),
            validation=sum(
                1 if self.is_cache_enabled and self.split_index(phase) else self.epochs(phase) for phase in phases
            ),
        )

    @property
    def caches_features(self) -> bool:
        """Whether any phase caches features of training records."""
        return any(self.split_index(phase) and self.reuses_features(phase) for phase in self.plan.phases)

    @property
    def caches_features_and_images(self) -> bool:
        """Whether the job caches both features (possibly only for validation) and decoded images."""
        caches_any_features = self.is_cache_enabled and any(map(self.split_index, self.plan.phases))
        return caches_any_features and self.passes.maximum > 1
