"""What follows from frozen layers: where are they cut off, and how often does a job look at its pictures?"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.hyperparameters import JobSpec
from finetune.models.backbone import Backbone, ImageInput
from finetune.runtime.precision import Numerics
from finetune.strategies.plan import Phase, Plan
from finetune.training.inputs import border_of


@dataclass(frozen=True, slots=True)
class Passes:
    """How often a job looks at its pictures.

    Attributes:
        plain: at those for training, as they are.
        varied: at those for training, to augment them.
        validation: at those for validation.
    """

    plain: int
    varied: int
    validation: int

    @property
    def most(self) -> int:
        """At those that are looked at most often."""
        return max(self.plain, self.varied, self.validation)


@dataclass(frozen=True, slots=True)
class Frozen:
    """What decides on frozen layers."""

    backbone: Backbone
    plan: Plan
    spec: JobSpec
    numerics: Numerics

    def border(self, phase: Phase) -> int:
        """Number of groups whose outputs are features in a phase; 0 where the first ones learn."""
        border = border_of(self.plan, phase)
        return border if phase.trainable else 0

    @property
    def views(self) -> int:
        """Variations of a picture that epochs take turns with."""
        spec = self.spec
        if spec.data.augmentation == "none" or not isinstance(self.backbone.expects, ImageInput):
            return 1
        if spec.features.cache == "off":
            return spec.optimisation.epochs
        return spec.features.views or 1

    def epochs(self, phase: Phase) -> int:
        """How long a phase lasts."""
        ends = [later.first_epoch for later in self.plan.phases if later.first_epoch > phase.first_epoch]
        return min(ends, default=self.spec.optimisation.epochs) - phase.first_epoch

    def keeps(self, phase: Phase) -> bool:
        """Whether features of training records are asked for again within the phase."""
        return self.spec.features.cache == "auto" and self.epochs(phase) > self.views

    @property
    def keeps_features(self) -> bool:
        """Whether some phase keeps features of training records."""
        return any(self.border(phase) and self.keeps(phase) for phase in self.plan.phases)

    @property
    def keeps_both(self) -> bool:
        """Whether features, be it only those for validation, and decoded pictures are kept in the same job."""
        features = self.spec.features.cache == "auto" and any(map(self.border, self.plan.phases))
        return features and self.passes.most > 1

    def passes_of(self, phase: Phase) -> int:
        """How often a phase looks at the training pictures, or runs texts through the frozen layers."""
        epochs = self.epochs(phase)
        kept = self.border(phase) and self.spec.features.cache == "auto"
        return min(self.views, epochs) if kept else epochs

    def varies(self, phase: Phase) -> bool:
        """Whether a phase augments what it looks at."""
        return self.views > 1 if self.border(phase) else self.spec.data.augmentation != "none"

    @property
    def passes(self) -> Passes:
        """How often the whole job looks at pictures."""
        if not isinstance(self.backbone.expects, ImageInput):
            return Passes(0, 0, 0)
        trained = [phase for phase in self.plan.phases if phase.trainable]
        varied = sum(self.passes_of(phase) for phase in trained if self.varies(phase))
        plain = sum(self.passes_of(phase) for phase in trained if not self.varies(phase))
        features = self.spec.features.cache == "auto"
        validation = sum(1 if features and self.border(phase) else self.epochs(phase) for phase in trained)
        return Passes(plain, varied, validation)
