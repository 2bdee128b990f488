"""Which layers of each phase are frozen from the input on, and where are their outputs kept?"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from finetune.data.batches import Batches, BatchSource
from finetune.data.kept_pictures import KeptPictures
from finetune.data.on_device import OnDevice, SideStream
from finetune.data.transforms import ImageTransform
from finetune.features.batches import FeatureBatches
from finetune.features.front import FrontRun
from finetune.features.storage import Place
from finetune.job.compiling import compiled
from finetune.job.feature_key import Front, feature_key
from finetune.job.loaders import Loaders
from finetune.job.space import Space
from finetune.job.warm_features import WarmFeatures
from finetune.job.warm_pool import WarmPool
from finetune.models.backbone import Backbone, ImageInput
from finetune.spec.job_spec import JobSpec
from finetune.strategies.plan import Phase, Plan
from finetune.training.feeds import Feed, border_of
from finetune.training.precision import Numerics

logger = logging.getLogger(__name__)

_CHUNK = {("cpu", True): 16, ("cpu", False): 8, ("cuda", True): 64, ("cuda", False): 32}
"""Rows that go through the front together, by device and by whether they are pictures; results depend on it."""


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

    def keeps_pictures(self, phase: Phase) -> bool:
        """Whether every epoch of the phase looks at the pictures themselves, and there are several."""
        whole = self.border(phase) == 0 or self.spec.features.cache == "off"
        return whole and self.epochs(phase) > 1 and isinstance(self.backbone.expects, ImageInput)


class PhaseFeeds:
    """Batches of each phase: features where layers are frozen from the input on, else records.

    The frozen layers always run apart from the others, kept or not, so that keeping changes no bit.
    """

    def __init__(self, frozen: Frozen, loaders: Loaders, folder: Path, warm_pool: WarmPool) -> None:
        """Compute nothing yet.

        Args:
            frozen: what decides on frozen layers.
            loaders: batches of records.
            folder: on the fastest local disk.
            warm_pool: what earlier jobs left, and later ones will find.
        """
        self._warm = WarmFeatures(warm_pool)
        self._frozen = frozen
        self._loaders = loaders
        self._space = Space(folder, frozen.numerics.device, frozen.spec.features.size_gb)
        self._border = 0
        self._training: Feed | None = None
        self._validation: Feed | None = None

    @property
    def records(self) -> BatchSource:
        """The training records themselves, in the same batches."""
        if self._loaders.train is None:
            raise RuntimeError("nothing is to be trained")
        return self._loaders.train

    def training(self, phase: Phase) -> Feed:
        """What a phase trains on."""
        self.enter(phase)
        return self._training or Feed(self.records, self._frozen.backbone.forward)

    def validation(self) -> Feed | None:
        """What is validated on in the phase that was entered last; `None` where there are no records for it."""
        return self._validation or self.whole(self._loaders.validation)

    def whole(self, batches: BatchSource | None) -> Feed | None:
        """Records for the whole network."""
        forward, device = self._frozen.backbone.forward, self._frozen.numerics.device
        if batches is None or device.type != "cuda":
            return None if batches is None else Feed(batches, forward)
        return Feed(OnDevice(batches, device, SideStream(device)), forward)

    def enter(self, phase: Phase) -> None:
        """Let training and validation go the way of a phase."""
        if self._training is not None and self._frozen.border(phase) == self._border:
            return
        self._border = self._frozen.border(phase)
        self._warm.leave()
        # What the phase before kept gives its room back.
        self._training = self._validation = None
        train, validation = self._loaders.train, self._loaders.validation
        if self._frozen.keeps_pictures(phase):
            train, validation = self._keeping_pictures(train, validation)
        self._training, self._validation = self.whole(train), self.whole(validation)
        # What comes through a pipe cannot be looked up again, so nothing of it is kept.
        if self._border and isinstance(train, Batches):
            self._cut(phase, train, validation if isinstance(validation, Batches) else None)
        if self._training is not None and self._frozen.spec.run.compile:
            self._training = Feed(self._training.source, compiled(self._training.forward))

    def _keeping_pictures(
        self, train: BatchSource | None, validation: BatchSource | None
    ) -> tuple[BatchSource | None, BatchSource | None]:
        """The same batches, whose pictures are kept; those for validation are small, of one size, and come first."""
        memory = self._space.memory()
        if isinstance(validation, Batches) and isinstance(validation.dataset.transform, ImageTransform):
            transform = validation.dataset.transform
            wanted = min(memory // 2, len(validation.dataset) * transform.example_bytes)
            memory -= wanted
            room = self._space.room(wanted, with_disk=False)
            validation = validation.keeping(KeptPictures(transform, room, "validation"))
        if isinstance(train, Batches) and isinstance(train.dataset.transform, ImageTransform):
            room = self._space.room(memory, with_disk=True)
            train = train.keeping(KeptPictures(train.dataset.transform, room, "training"))
        return train, validation

    def _cut(self, phase: Phase, train: Batches, validation: Batches | None) -> None:
        run, views = self._run(), min(self._frozen.views, self._frozen.spec.optimisation.epochs)
        counts = len(train.dataset) * views, len(validation.dataset) if validation else 0
        keeps = self._frozen.spec.features.cache == "auto"
        source = train if self._frozen.views > 1 else train.without_augmentation()
        front = Front(self._frozen.backbone, self._border, run, self._frozen.numerics.name)
        nowhere = Place(0, device=run.device)
        place = self._space.place(counts[0] / sum(counts)) if self._frozen.keeps(phase) else nowhere
        features = FeatureBatches(source, run, views, place)
        self._training = Feed(features, run.cut.back)
        if self._frozen.keeps(phase):
            spec = self._frozen.spec
            varied = [spec.data.augmentation, spec.run.seed, views] if source.varies else []
            self._warm.take_up(features, lambda: feature_key(front, source, varied))
        if validation is not None:
            place = self._space.place(counts[1] / sum(counts)) if keeps else nowhere
            seen = FeatureBatches(validation, run, 1, place)
            self._validation = Feed(seen, run.cut.back)
            if keeps:
                self._warm.take_up(seen, lambda: feature_key(front, validation, []))

    def leave(self) -> None:
        """Leave what was kept for later jobs on this machine."""
        self._warm.leave()

    def _run(self) -> FrontRun:
        backbone, numerics = self._frozen.backbone, self._frozen.numerics
        expects = backbone.expects
        pictures = isinstance(expects, ImageInput)
        longest = 1 if isinstance(expects, ImageInput) else expects.max_length
        chunk = _CHUNK[numerics.device.type, pictures]
        return FrontRun(backbone.cut(self._border), chunk, longest, numerics.device, numerics.context)
