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
    def most(self) -> int:
        """The largest of the three numbers."""
        return max(self.plain, self.augmented, self.validation)


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Cache plan, derived from the frozen layers of each phase."""

    backbone: Backbone
    plan: Plan
    spec: JobSpec
    numerics: Numerics

    def split_index(self, phase: Phase) -> int:
        """Return the number of layer groups in the frozen prefix of a phase; 0 if the first group is trainable."""
        index = self.plan.split_index(phase)
        return index if phase.trainable else 0

    @property
    def is_augmented(self) -> bool:
        """Whether training records are augmented, at least where no features of them are cached."""
        return self.spec.data.augmentation != "none" and self.backbone.expects.is_augmentable

    @property
    def views(self) -> int:
        """Number of augmented views per image that epochs cycle through."""
        spec = self.spec
        if not self.is_augmented:
            return 1
        if spec.features.cache == "off":
            return spec.optimization.epochs
        return spec.features.views or 1

    def epochs(self, phase: Phase) -> int:
        """Return the number of epochs of a phase."""
        later_starts = [later.first_epoch for later in self.plan.phases if later.first_epoch > phase.first_epoch]
        return min(later_starts, default=self.spec.optimization.epochs) - phase.first_epoch

    def reuses_features(self, phase: Phase) -> bool:
        """Return whether features of training records are used more than once within the phase."""
        return self.spec.features.cache == "auto" and self.epochs(phase) > self.views

    @property
    def caches_features(self) -> bool:
        """Whether any phase caches features of training records."""
        return any(self.split_index(phase) and self.reuses_features(phase) for phase in self.plan.phases)

    @property
    def caches_both(self) -> bool:
        """Whether the job caches both features (possibly only for validation) and decoded images."""
        features = self.spec.features.cache == "auto" and any(map(self.split_index, self.plan.phases))
        return features and self.passes.most > 1

    def passes_over(self, phase: Phase) -> int:
        """Return the number of passes of a phase over the training images, or of texts through the frozen layers."""
        epochs = self.epochs(phase)
        caches = self.split_index(phase) and self.spec.features.cache == "auto"
        return min(self.views, epochs) if caches else epochs

    def augments(self, phase: Phase) -> bool:
        """Return whether a phase augments its images."""
        return self.views > 1 if self.split_index(phase) else self.is_augmented

    @property
    def passes(self) -> ImagePasses:
        """Number of passes of the whole job over its images."""
        if self.backbone.expects.modality != "image":
            return ImagePasses(0, 0, 0)
        trained = [phase for phase in self.plan.phases if phase.trainable]
        augmented = sum(self.passes_over(phase) for phase in trained if self.augments(phase))
        plain = sum(self.passes_over(phase) for phase in trained if not self.augments(phase))
        features = self.spec.features.cache == "auto"
        validation = sum(1 if features and self.split_index(phase) else self.epochs(phase) for phase in trained)
        return ImagePasses(plain, augmented, validation)
