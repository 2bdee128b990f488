"""Selects the inputs of each phase: records, or cached outputs of the frozen prefix."""

from __future__ import annotations

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

_SINGLE_THREAD_MAX_MACS = 1 << 23
"""Multiply-adds per batch up to which a single CPU thread is faster than two or four."""

_RESERVE_DIVISOR = 8
"""Space is reserved for one eighth more records than the estimated length of a stream."""


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


@dataclass(frozen=True, slots=True)
class _CacheRequest:
    """Features to cache.

    Attributes:
        views: number of augmented views per record.
        count: number of records; 0 if unknown.
        share: share of the cache budget; 0 to compute the features in every epoch.
    """

    views: int
    count: int
    share: float


class CachedInputProvider:
    """The batches of each phase: features if a prefix of the model is frozen, else records.

    The frozen prefix always runs separately from the other layers, cached or not, so caching does not change a bit.
    """

    def __init__(self, cache_plan: CachePlan, sources: RecordSources, folder: Path, warm_pool: WarmPool) -> None:
        """Initialize without computing any feature.

        Args:
            cache_plan: cache plan of the frozen layers.
            sources: batches of records for training and validation.
            folder: folder on the fastest local disk.
            warm_pool: feature cache shared with earlier and later jobs.
        """
        self._warm_features = WarmFeatures(warm_pool)
        self._cache_plan = cache_plan
        self._sources = sources
        self._budget = CacheBudget(folder, cache_plan.numerics.device, cache_plan.spec.features.size_gb)
        if cache_plan.caches_features_and_images:
            self._budget = self._budget.halved()
        self._image_cache = ImageCachePolicy(cache_plan, self._budget)
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
        return self._training or PhaseInputs(self.records, self._cache_plan.backbone.forward)

    def validation(self) -> PhaseInputs | None:
        """Return the validation input of the current phase; `None` without validation records."""
        return self._validation or self.full_model_inputs(self._sources.validation)

    def full_model_inputs(self, batches: BatchSource | None) -> PhaseInputs | None:
        """Return the input for the whole model, from records; `None` without records."""
        if batches is None:
            return None
        forward, device = self._cache_plan.backbone.forward, self._cache_plan.numerics.device
        return PhaseInputs(DevicePrefetcher(batches, device) if device.type == "cuda" else batches, forward)

    def save(self) -> None:
        """Save the cached features for later jobs on this machine."""
        self._warm_features.save()

    def prepare_phase(self, phase: Phase) -> None:
        """Switch training and validation to the inputs of a phase."""
        split_index = self._cache_plan.split_index(phase)
        if self._training is not None and split_index == self._split_index:
            return
        self._split_index = split_index
        self.save()
        # Free the features of the previous phase.
        self._training = self._validation = None
        train, validation = self._record_batches()
        if split_index and train is not None:
            self._use_features(phase, train, validation)
        else:
            self._training, self._validation = self.full_model_inputs(train), self.full_model_inputs(validation)
        if self._training is not None and self._cache_plan.spec.run.compile:
            self._training = replace(self._training, forward=compile_forward(self._training.forward))

    def _record_batches(self) -> tuple[BatchSource | None, BatchSource | None]:
        """Return the training and validation batches of the current split, with cached images."""
        train, validation = self._sources.train, self._sources.validation
        if isinstance(train, Batches | StreamBatches) and self._split_index and self._cache_plan.views == 1:
            train = train.without_augmentation()
        # Streamed records have no stable index: their images are not cached, and their features are keyed by content.
        # Space for validation images is reserved first.
        if isinstance(validation, Batches):
            validation = self._image_cache.cache_validation(validation)
        if isinstance(train, Batches):
            train = self._image_cache.cache_training(train)
        return train, validation

    def _use_features(self, phase: Phase, train: BatchSource, validation: BatchSource | None) -> None:
        """Switch to features, and divide the cache budget between training and validation."""
        cache_plan, extractor = self._cache_plan, self._build_extractor()
        views = min(cache_plan.views, cache_plan.spec.optimization.epochs)
        # The records of a validation pipe are not counted in advance: assume as many as for training.
        train_count = _record_count(train)
        validation_count = 0 if validation is None else _record_count(validation) or train_count
        share = train_count * views / max(1, train_count * views + validation_count)
        train_request = _CacheRequest(views, train_count, share if cache_plan.reuses_features(phase) else 0)
        self._training = self._feature_inputs(extractor, train, train_request)
        if validation is not None:
            validation_request = _CacheRequest(1, validation_count, 1 - share if cache_plan.is_cache_enabled else 0)
            self._validation = self._feature_inputs(extractor, validation, validation_request)

    def _build_extractor(self) -> FeatureExtractor:
        backbone, numerics = self._cache_plan.backbone, self._cache_plan.numerics
        expects, device = backbone.expects, numerics.device
        batch_size = expects.inference_batch_size(device.type)
        # Folding is safe because frozen weights do not change while their features are in use.
        split = backbone.split(self._split_index).fold_batchnorms(numerics.autocast)
        # Return memory freed after building and inspecting the model.
        release_freed_memory()
        concurrency = torch.get_num_threads() if device.type == "cpu" else 1
        return FeatureExtractor(split, batch_size, expects.max_length, device, numerics.context, concurrency)

    def _feature_inputs(
        self, extractor: FeatureExtractor, batches: BatchSource, cache_request: _CacheRequest
    ) -> PhaseInputs:
        """Return the input for the trainable suffix, from the features of records."""
        views, count, share = cache_request.views, cache_request.count, cache_request.share
        limits = self._budget.store_limits(share) if share else StoreLimits(0, device=extractor.device)
        source: FeatureStream | FeatureBatches
        if isinstance(batches, StreamBatches):
            # The count may be an estimate, so reserve more.
            source = FeatureStream(batches, extractor, views, limits, count + count // _RESERVE_DIVISOR)
        elif isinstance(batches, Batches):
            source = FeatureBatches(batches, extractor, views, limits)
            if share and not batches.is_sharded:
                self._load_warm_features(source, extractor, batches, views)
        else:
            raise TypeError(f"cannot compute features of {type(batches).__name__}")
        # A stream is read once per host, so its features are exchanged.
        is_exchanged = isinstance(batches, StreamBatches) and not batches.is_sharded and self._is_suffix_the_head()
        return PhaseInputs(
            source, extractor.split.suffix, self._is_suffix_single_threaded(), is_exchanged, in_lockstep=is_exchanged
        )

    def _load_warm_features(
        self, features: FeatureBatches, extractor: FeatureExtractor, batches: Batches, views: int
    ) -> None:
        """Load the features that an earlier job on this machine saved."""
        backbone, spec = self._cache_plan.backbone, self._cache_plan.spec
        variation = [spec.data.augmentation, spec.run.seed, views] if batches.is_augmented else []
        prefix = FrozenPrefix(backbone, self._split_index, extractor, self._cache_plan.numerics.name)
        self._warm_features.load(features, lambda: feature_key(prefix, batches, variation))

    def _is_suffix_single_threaded(self) -> bool:
        """Return whether the suffix is the head alone, and small enough per batch for a single CPU thread."""
        backbone, spec = self._cache_plan.backbone, self._cache_plan.spec
        groups = backbone.layer_groups()
        if self._cache_plan.numerics.device.type != "cpu" or not self._is_suffix_the_head():
            return False
        parameters = dict(backbone.module.named_parameters())
        weights = sum(parameters[name].numel() for name in groups[-1].parameters)
        return weights * spec.optimization.batch_size <= _SINGLE_THREAD_MAX_MACS

    def _is_suffix_the_head(self) -> bool:
        """Return whether the suffix is the head alone."""
        return self._split_index >= len(self._cache_plan.backbone.layer_groups()) - 1


def _record_count(batches: BatchSource) -> int:
    """Return the number of records per epoch; 0 if unknown."""
    if isinstance(batches, Batches):
        return len(batches.dataset)
    return (batches.count or 0) if isinstance(batches, StreamBatches) else 0
