"""Which layers of each phase are frozen from the input on, and where are their outputs kept?"""

from __future__ import annotations

import logging
from pathlib import Path

from finetune.data.batches import Batches, BatchSource
from finetune.data.on_device import OnDevice, SideStream
from finetune.features.batches import FeatureBatches
from finetune.features.front import FrontRun
from finetune.features.storage import Place
from finetune.job.compiling import compiled
from finetune.job.decoded_once import DecodedOnce
from finetune.job.feature_key import Front, feature_key
from finetune.job.frozen import Frozen
from finetune.job.loaders import Loaders
from finetune.job.space import Space
from finetune.job.warm_features import WarmFeatures
from finetune.job.warm_pool import WarmPool
from finetune.models.backbone import ImageInput
from finetune.strategies.plan import Phase
from finetune.training.feeds import Feed

logger = logging.getLogger(__name__)

_CHUNK = {("cpu", True): 16, ("cpu", False): 8, ("cuda", True): 64, ("cuda", False): 32}
"""Rows that go through the front together, by device and by whether they are pictures; results depend on it."""


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
        if frozen.keeps_both:
            self._space = self._space.half()
        self._decoded_once = DecodedOnce(frozen, self._space)
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
        # What comes through a pipe cannot be looked up again, so nothing of it is kept.
        if isinstance(validation, Batches):
            validation = self._decoded_once.validation(validation)
        if isinstance(train, Batches):
            varied = not self._border or self._frozen.views > 1
            train = self._decoded_once.training(train if varied else train.without_augmentation())
        self._training, self._validation = self.whole(train), self.whole(validation)
        if self._border and isinstance(train, Batches):
            self._cut(phase, train, validation if isinstance(validation, Batches) else None)
        if self._training is not None and self._frozen.spec.run.compile:
            self._training = Feed(self._training.source, compiled(self._training.forward))

    def _cut(self, phase: Phase, train: Batches, validation: Batches | None) -> None:
        run, views = self._run(), min(self._frozen.views, self._frozen.spec.optimisation.epochs)
        counts = len(train.dataset) * views, len(validation.dataset) if validation else 0
        keeps = self._frozen.spec.features.cache == "auto"
        front = Front(self._frozen.backbone, self._border, run, self._frozen.numerics.name)
        nowhere = Place(0, device=run.device)
        place = self._space.place(counts[0] / sum(counts)) if self._frozen.keeps(phase) else nowhere
        features = FeatureBatches(train, run, views, place)
        self._training = Feed(features, run.cut.back)
        if self._frozen.keeps(phase):
            spec = self._frozen.spec
            varied = [spec.data.augmentation, spec.run.seed, views] if train.varies else []
            self._warm.take_up(features, lambda: feature_key(front, train, varied))
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
        # What is frozen never changes while its features are asked for.
        cut = backbone.cut(self._border).folded(numerics.autocast)
        return FrontRun(cut, chunk, longest, numerics.device, numerics.context)
