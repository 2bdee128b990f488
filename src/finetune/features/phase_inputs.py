"""Selects the inputs of each phase: records, or cached outputs of the frozen prefix."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from finetune.data.loading.batches import Batches, BatchSource
from finetune.data.loading.device_prefetch import OnDevice, SideStream
from finetune.data.pipe.batches import StreamBatches
from finetune.features.batches import FeatureBatches
from finetune.features.budget import CacheBudget
from finetune.features.extractor import FeatureExtractor
from finetune.features.image_cache_policy import DecodedOnce
from finetune.features.key import Front, feature_key
from finetune.features.plan import CachePlan
from finetune.features.store import StoreLimits
from finetune.features.stream import FeatureStream
from finetune.features.warm_features import WarmFeatures
from finetune.features.warm_pool import WarmPool
from finetune.models.backbone import ImageInput
from finetune.runtime.memory import release_freed_memory
from finetune.strategies.plan import Phase
from finetune.training.compile import compiled
from finetune.training.inputs import PhaseInputs

logger = logging.getLogger(__name__)

_CHUNK = {("cpu", True): 16, ("cpu", False): 8, ("cuda", True): 64, ("cuda", False): 32}
"""Batch size of the frozen prefix, by device and by whether inputs are images; results depend on it."""
_LEAST_CHUNK, _USUAL_SIDE = 4, 224

_ALONE = 1 << 23
"""Multiply-adds per batch up to which a single CPU thread is faster than two or four."""

_MORE = 8
"""Space is reserved for one eighth more records than the estimated length of a stream."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Features to cache: `views` of `count` records, in a share of the space."""

    views: int
    count: int
    share: float


class Sources(Protocol):
    """Batches of records by purpose; `None` for a purpose without records."""

    @property
    def train(self) -> BatchSource | None:
        """Training batches."""
        ...

    @property
    def validation(self) -> BatchSource | None:
        """Validation batches."""
        ...


class CachedInputProvider:
    """The batches of each phase: features if a prefix of the model is frozen, else records.

    The frozen prefix always runs separately from the other layers, cached or not, so caching does not change a bit.
    """

    def __init__(self, frozen: CachePlan, sources: Sources, folder: Path, warm_pool: WarmPool) -> None:
        """Initialize without computing any feature.

        Args:
            frozen: cache plan of the frozen layers.
            sources: batches of records for training and validation.
            folder: folder on the fastest local disk.
            warm_pool: feature cache shared with earlier and later jobs.
        """
        self._warm = WarmFeatures(warm_pool)
        self._frozen = frozen
        self._sources = sources
        self._space = CacheBudget(folder, frozen.numerics.device, frozen.spec.features.size_gb)
        if frozen.caches_both:
            self._space = self._space.half()
        self._decoded_once = DecodedOnce(frozen, self._space)
        self._border = 0
        self._training: PhaseInputs | None = None
        self._validation: PhaseInputs | None = None

    @property
    def records(self) -> BatchSource:
        """Batches of the training records themselves."""
        if self._sources.train is None:
            raise RuntimeError("nothing is to be trained")
        return self._sources.train

    def training(self, phase: Phase) -> PhaseInputs:
        """Enter a phase and return its training input."""
        self.enter(phase)
        return self._training or PhaseInputs(self.records, self._frozen.backbone.forward)

    def validation(self) -> PhaseInputs | None:
        """Return the validation input of the current phase; `None` without validation records."""
        return self._validation or self.whole(self._sources.validation)

    def whole(self, batches: BatchSource | None) -> PhaseInputs | None:
        """Return the input for the whole model, from records."""
        forward, device = self._frozen.backbone.forward, self._frozen.numerics.device
        if batches is None or device.type != "cuda":
            return None if batches is None else PhaseInputs(batches, forward)
        return PhaseInputs(OnDevice(batches, device, SideStream(device)), forward)

    def enter(self, phase: Phase) -> None:
        """Switch training and validation to the inputs of a phase."""
        if self._training is not None and self._frozen.split_index(phase) == self._border:
            return
        self._border = self._frozen.split_index(phase)
        self._warm.save()
        # Free the features of the previous phase.
        self._training = self._validation = None
        train, validation = self._sources.train, self._sources.validation
        # Streamed records have no stable index: their images are not cached, and their features are keyed by content.
        if isinstance(validation, Batches):
            validation = self._decoded_once.validation(validation)
        if isinstance(train, Batches | StreamBatches) and self._border and self._frozen.views == 1:
            train = train.without_augmentation()
        if isinstance(train, Batches):
            train = self._decoded_once.training(train)
        self._training, self._validation = self.whole(train), self.whole(validation)
        if self._border and train is not None:
            self._cut(phase, train, validation)
        if self._training is not None and self._frozen.spec.run.compile:
            self._training = replace(self._training, forward=compiled(self._training.forward))

    def _cut(self, phase: Phase, train: BatchSource, validation: BatchSource | None) -> None:
        frozen, run = self._frozen, self._run()
        views = min(frozen.views, frozen.spec.optimisation.epochs)
        # The records of a validation pipe are not counted in advance: assume as many as for training.
        many = _count(train)
        few = 0 if validation is None else _count(validation) or many
        share = many * views / max(1, many * views + few)
        self._training = self._features(run, train, _Kept(views, many, share if frozen.keeps(phase) else 0))
        if validation is not None:
            room = 1 - share if frozen.spec.features.cache == "auto" else 0
            self._validation = self._features(run, validation, _Kept(1, few, room))

    def _features(self, run: FeatureExtractor, batches: BatchSource, kept: _Kept) -> PhaseInputs:
        place = self._space.place(kept.share) if kept.share else StoreLimits(0, device=run.device)
        if isinstance(batches, StreamBatches):
            # The count may be an estimate, so reserve more.
            count = kept.count + kept.count // _MORE
            return PhaseInputs(FeatureStream(batches, run, kept.views, place, count), run.split.suffix, self._alone())
        if not isinstance(batches, Batches):
            raise TypeError(f"there are no features of {type(batches).__name__}")
        features = FeatureBatches(batches, run, kept.views, place)
        if kept.share:
            spec = self._frozen.spec
            varied = [spec.data.augmentation, spec.run.seed, kept.views] if batches.varies else []
            front = Front(self._frozen.backbone, self._border, run, self._frozen.numerics.name)
            self._warm.load(features, lambda: feature_key(front, batches, varied))
        return PhaseInputs(features, run.split.suffix, self._alone())

    def _alone(self) -> bool:
        """Return whether only the head follows the split, and is small enough per batch for a single CPU thread."""
        backbone, spec = self._frozen.backbone, self._frozen.spec
        groups = backbone.layer_groups()
        if self._frozen.numerics.device.type != "cpu" or self._border < len(groups) - 1:
            return False
        parameters = dict(backbone.module.named_parameters())
        weights = sum(parameters[name].numel() for name in groups[-1].parameters)
        return weights * spec.optimisation.batch_size <= _ALONE

    def save(self) -> None:
        """Save the cached features for later jobs on this machine."""
        self._warm.save()

    def _run(self) -> FeatureExtractor:
        backbone, numerics = self._frozen.backbone, self._frozen.numerics
        expects = backbone.expects
        pictures = isinstance(expects, ImageInput)
        longest = 1 if isinstance(expects, ImageInput) else expects.max_length
        chunk = _CHUNK[numerics.device.type, pictures]
        if isinstance(expects, ImageInput):
            # Fewer images per batch if they are large, to limit memory. Depends only on the request, as the results do.
            chunk = min(chunk, max(_LEAST_CHUNK, chunk * _USUAL_SIDE**2 // expects.size**2))
        # Folding is safe because frozen weights do not change while their features are in use.
        cut = backbone.split(self._border).folded(numerics.autocast)
        # Return memory freed after building and inspecting the model.
        release_freed_memory()
        at_once = torch.get_num_threads() if numerics.device.type == "cpu" else 1
        return FeatureExtractor(cut, chunk, longest, numerics.device, numerics.context, at_once)


def _count(batches: BatchSource) -> int:
    """Return the number of records per epoch; 0 if unknown."""
    if isinstance(batches, Batches):
        return len(batches.dataset)
    return (batches.count or 0) if isinstance(batches, StreamBatches) else 0
