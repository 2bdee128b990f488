"""Selects the inputs of each phase: records, or cached outputs of the frozen prefix."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from finetune.data.loading.batches import Batches, BatchSource
from finetune.data.loading.device_prefetch import DevicePrefetcher
from finetune.data.pipe.batches import StreamBatches
from finetune.features.batches import FeatureBatches
from finetune.features.budget import CacheBudget
from finetune.features.extractor import FeatureExtractor
from finetune.features.image_cache_policy import ImageCachePolicy
from finetune.features.key import FrozenPrefix, feature_key
from finetune.features.plan import CachePlan
from finetune.features.store import StoreLimits
from finetune.features.stream import FeatureStream
from finetune.features.warm_features import WarmFeatures
from finetune.features.warm_pool import WarmPool
from finetune.runtime.memory import release_freed_memory
from finetune.strategies.plan import Phase
from finetune.training.compile import compile_forward
from finetune.training.inputs import PhaseInputs

logger = logging.getLogger(__name__)

_SINGLE_THREAD_MAX_MACS = 1 << 23
"""Multiply-adds per batch up to which a single CPU thread is faster than two or four."""

_RESERVE_DIVISOR = 8
"""Space is reserved for one eighth more records than the estimated length of a stream."""


@dataclass(frozen=True, slots=True)
class _CacheRequest:
    """Features to cache: `views` of `count` records, in a share of the space."""

    views: int
    count: int
    share: float


class RecordSources(Protocol):
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

    def __init__(self, plan: CachePlan, sources: RecordSources, folder: Path, warm_pool: WarmPool) -> None:
        """Initialize without computing any feature.

        Args:
            plan: cache plan of the frozen layers.
            sources: batches of records for training and validation.
            folder: folder on the fastest local disk.
            warm_pool: feature cache shared with earlier and later jobs.
        """
        self._warm_features = WarmFeatures(warm_pool)
        self._plan = plan
        self._sources = sources
        self._budget = CacheBudget(folder, plan.numerics.device, plan.spec.features.size_gb)
        if plan.caches_both:
            self._budget = self._budget.halved()
        self._image_cache = ImageCachePolicy(plan, self._budget)
        self._split_index = 0
        self._training: PhaseInputs | None = None
        self._validation: PhaseInputs | None = None

    @property
    def records(self) -> BatchSource:
        """Batches of the training records themselves."""
        if self._sources.train is None:
            raise RuntimeError("there are no training records")
        return self._sources.train

    def training(self, phase: Phase) -> PhaseInputs:
        """Enter a phase and return its training input."""
        self.prepare_phase(phase)
        return self._training or PhaseInputs(self.records, self._plan.backbone.forward)

    def validation(self) -> PhaseInputs | None:
        """Return the validation input of the current phase; `None` without validation records."""
        return self._validation or self.full_model_inputs(self._sources.validation)

    def full_model_inputs(self, batches: BatchSource | None) -> PhaseInputs | None:
        """Return the input for the whole model, from records."""
        forward, device = self._plan.backbone.forward, self._plan.numerics.device
        if batches is None or device.type != "cuda":
            return None if batches is None else PhaseInputs(batches, forward)
        return PhaseInputs(DevicePrefetcher(batches, device), forward)

    def prepare_phase(self, phase: Phase) -> None:
        """Switch training and validation to the inputs of a phase."""
        if self._training is not None and self._plan.split_index(phase) == self._split_index:
            return
        self._split_index = self._plan.split_index(phase)
        self._warm_features.save()
        # Free the features of the previous phase.
        self._training = self._validation = None
        train, validation = self._sources.train, self._sources.validation
        # Streamed records have no stable index: their images are not cached, and their features are keyed by content.
        if isinstance(validation, Batches):
            validation = self._image_cache.cache_validation(validation)
        if isinstance(train, Batches | StreamBatches) and self._split_index and self._plan.views == 1:
            train = train.without_augmentation()
        if isinstance(train, Batches):
            train = self._image_cache.cache_training(train)
        self._training, self._validation = self.full_model_inputs(train), self.full_model_inputs(validation)
        if self._split_index and train is not None:
            self._split_phase(phase, train, validation)
        if self._training is not None and self._plan.spec.run.compile:
            self._training = replace(self._training, forward=compile_forward(self._training.forward))

    def _split_phase(self, phase: Phase, train: BatchSource, validation: BatchSource | None) -> None:
        plan, extractor = self._plan, self._build_extractor()
        views = min(plan.views, plan.spec.optimization.epochs)
        # The records of a validation pipe are not counted in advance: assume as many as for training.
        train_count = _count(train)
        validation_count = 0 if validation is None else _count(validation) or train_count
        share = train_count * views / max(1, train_count * views + validation_count)
        train_share = share if plan.reuses_features(phase) else 0
        self._training = self._features(extractor, train, _CacheRequest(views, train_count, train_share))
        if validation is not None:
            validation_share = 1 - share if plan.spec.features.cache == "auto" else 0
            cache_request = _CacheRequest(1, validation_count, validation_share)
            self._validation = self._features(extractor, validation, cache_request)

    def _features(self, extractor: FeatureExtractor, batches: BatchSource, cache_request: _CacheRequest) -> PhaseInputs:
        limits = StoreLimits(0, device=extractor.device)
        if cache_request.share:
            limits = self._budget.store_limits(cache_request.share)
        if isinstance(batches, StreamBatches):
            # The count may be an estimate, so reserve more.
            count = cache_request.count + cache_request.count // _RESERVE_DIVISOR
            stream = FeatureStream(batches, extractor, cache_request.views, limits, count)
            return PhaseInputs(stream, extractor.split.suffix, self._is_single_threaded())
        if not isinstance(batches, Batches):
            raise TypeError(f"cannot compute features of {type(batches).__name__}")
        features = FeatureBatches(batches, extractor, cache_request.views, limits)
        if cache_request.share:
            spec = self._plan.spec
            variation = [spec.data.augmentation, spec.run.seed, cache_request.views] if batches.is_augmented else []
            prefix = FrozenPrefix(self._plan.backbone, self._split_index, extractor, self._plan.numerics.name)
            self._warm_features.load(features, lambda: feature_key(prefix, batches, variation))
        return PhaseInputs(features, extractor.split.suffix, self._is_single_threaded())

    def _is_single_threaded(self) -> bool:
        """Return whether only the head follows the split, and is small enough per batch for a single CPU thread."""
        backbone, spec = self._plan.backbone, self._plan.spec
        groups = backbone.layer_groups()
        if self._plan.numerics.device.type != "cpu" or self._split_index < len(groups) - 1:
            return False
        parameters = dict(backbone.module.named_parameters())
        weights = sum(parameters[name].numel() for name in groups[-1].parameters)
        return weights * spec.optimization.batch_size <= _SINGLE_THREAD_MAX_MACS

    def save(self) -> None:
        """Save the cached features for later jobs on this machine."""
        self._warm_features.save()

    def _build_extractor(self) -> FeatureExtractor:
        backbone, numerics = self._plan.backbone, self._plan.numerics
        expects, device = backbone.expects, numerics.device
        batch_size = expects.inference_batch_size(device.type)
        # Folding is safe because frozen weights do not change while their features are in use.
        split = backbone.split(self._split_index).fold_batchnorms(numerics.autocast)
        # Return memory freed after building and inspecting the model.
        release_freed_memory()
        concurrency = torch.get_num_threads() if device.type == "cpu" else 1
        return FeatureExtractor(split, batch_size, expects.max_length, device, numerics.context, concurrency)


def _count(batches: BatchSource) -> int:
    """Return the number of records per epoch; 0 if unknown."""
    if isinstance(batches, Batches):
        return len(batches.dataset)
    return (batches.count or 0) if isinstance(batches, StreamBatches) else 0
