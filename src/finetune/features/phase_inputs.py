"""Selects the inputs of each phase: records, or cached outputs of the frozen prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch

from finetune.config.recipes import IMAGE_AUGMENTATION
from finetune.data.loading.batches import Batches, BatchSource
from finetune.data.loading.device_prefetch import DevicePrefetcher
from finetune.data.pipe.batches import StreamBatches
from finetune.distributed.host_memory import share_bytes
from finetune.distributed.world import World
from finetune.features.batches import FeatureBatches, feature_batches
from finetune.features.budget import CacheBudget
from finetune.features.exchange import FeatureExchange
from finetune.features.extractor import FeatureExtractor
from finetune.features.image_cache_policy import ImageCachePolicy
from finetune.features.key import FrozenPrefix, feature_key
from finetune.features.lengths import measure_lengths
from finetune.features.plan import CachePlan
from finetune.features.reuse.warm_features import WarmFeatures
from finetune.features.reuse.warm_pool import WarmPool
from finetune.features.store import FeatureStore, StoreLimits
from finetune.features.store_index import SharedIndex, SharedStoreMemory
from finetune.features.stream import FeatureStream
from finetune.runtime.memory import release_freed_memory
from finetune.strategies.plan import Phase
from finetune.training.compile import compile_forward
from finetune.training.inputs import PhaseInputs

_SINGLE_THREAD_MAX_MACS = 1 << 23
"""Multiply-adds per batch up to which a single CPU thread is faster than two or four."""

_ONE_PROCESS = World()
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
        use: features that a process needs: of its shards, which differ between epochs; of the same batches in every
            epoch; or of all records, so that the processes compute them together.
    """

    views: int
    count: int
    share: float
    use: Literal["shards", "same batches", "all"]


class CachedInputProvider:
    """The batches of each phase: features if a prefix of the model is frozen, else records.

    The frozen prefix always runs separately from the other layers, cached or not, so caching does not change a bit.

    All processes of the job call the methods together. If the head alone is trained, each of them trains it on whole
    batches, and they compute the features together; so the result does not depend on the number of devices.
    """

    def __init__(
        self,
        cache_plan: CachePlan,
        sources: RecordSources,
        folder: Path,
        warm_pool: WarmPool,
        world: World = _ONE_PROCESS,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Initialize without computing any feature.

        Args:
            cache_plan: cache plan of the frozen layers.
            sources: batches of records for training and validation.
            folder: folder on the fastest local disk.
            warm_pool: feature cache shared with earlier and later jobs.
            world: the processes of the job.
            interrupted: returns whether this process is to stop.
        """
        self._warm_features = WarmFeatures(warm_pool, world)
        self._folder = folder
        self._world = world
        self._interrupted = interrupted
        # The threads that compute a step later may be fewer: they are those of one virtual device.
        self._cores = torch.get_num_threads()
        self._cache_plan = cache_plan
        self._sources = sources
        self._budget = CacheBudget(folder, cache_plan.numerics.device, cache_plan.spec.features.size_gb)
        if cache_plan.caches_features_and_images:
            self._budget = self._budget.halved()
        self._image_cache = ImageCachePolicy(cache_plan, self._budget, world)
        self._split_index = 0
        self._training: PhaseInputs | None = None
        self._validation: PhaseInputs | None = None

    def in_world(self, world: World) -> CachedInputProvider:
        """Return the provider, before its first use, for those processes of the job that train."""
        provider = CachedInputProvider(
            self._cache_plan, self._sources, self._folder, self._warm_features.pool, world, self._interrupted
        )
        provider._cores = self._cores
        return provider

    def trains_replicated(self, phase: Phase) -> bool:
        """Return whether every process trains whole batches in a phase, since it trains the head on cached features."""
        split_index, groups = self._cache_plan.split_index(phase), self._cache_plan.backbone.layer_groups()
        train = self._sources.train
        return 0 < split_index == len(groups) - 1 and isinstance(train, Batches) and not train.is_sharded

    @property
    def always_trains_replicated(self) -> bool:
        """Whether every process trains whole batches in all phases, so that virtual devices do not matter."""
        return all(self.trains_replicated(phase) for phase in self._cache_plan.plan.phases)

    def holds(self, required_bytes: int) -> bool:
        """Return whether every process has room for more features in memory; all of them call this together."""
        return not self._world.any(not self._budget.holds(required_bytes))

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
        if isinstance(batches, Batches) and not batches.is_sharded:
            measure_lengths(batches, self._world, self._interrupted)
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
        use: Literal["shards", "all"] = "all" if self.trains_replicated(phase) else "shards"
        train_request = _CacheRequest(views, train_count, share if cache_plan.reuses_features(phase) else 0, use)
        self._training = self._feature_inputs(extractor, train, train_request)
        if validation is not None:
            validation_share = 1 - share if cache_plan.is_cache_enabled else 0
            validation_request = _CacheRequest(1, validation_count, validation_share, "same batches")
            self._validation = self._feature_inputs(extractor, validation, validation_request)

    def _build_extractor(self) -> FeatureExtractor:
        backbone, numerics = self._cache_plan.backbone, self._cache_plan.numerics
        expects, device = backbone.expects, numerics.device
        batch_size = expects.inference_batch_size(device.type)
        # Folding is safe because frozen weights do not change while their features are in use.
        split = backbone.split(self._split_index).fold_batchnorms(numerics.autocast)
        # Return memory freed after building and inspecting the model.
        release_freed_memory()
        concurrency = self._cores if device.type == "cpu" else 1
        return FeatureExtractor(split, batch_size, expects.max_length, device, numerics.context, concurrency)

    def _feature_inputs(
        self, extractor: FeatureExtractor, batches: BatchSource, cache_request: _CacheRequest
    ) -> PhaseInputs:
        """Return the input for the trainable suffix, from the features of records."""
        source: FeatureStream | FeatureBatches
        if isinstance(batches, StreamBatches):
            count, share = cache_request.count, cache_request.share
            budget = self._budget.divided(self._world.local_size)
            limits = budget.store_limits(share) if share else StoreLimits(0, device=extractor.device)
            # The count may be an estimate, so reserve more.
            count += count // _RESERVE_DIVISOR
            source = FeatureStream(batches, extractor, cache_request.views, limits, count)
        elif isinstance(batches, Batches):
            source = self._feature_batches(extractor, batches, cache_request)
        else:
            raise TypeError(f"cannot compute features of {type(batches).__name__}")
        # A stream is read once per host, so its features are exchanged.
        is_exchanged = isinstance(batches, StreamBatches) and not batches.is_sharded and self._is_suffix_the_head()
        return PhaseInputs(
            source,
            extractor.split.suffix,
            self._is_suffix_single_threaded(),
            replicated=is_exchanged or cache_request.use == "all",
            in_lockstep=is_exchanged,
            takes_features=True,
        )

    def _feature_batches(
        self, extractor: FeatureExtractor, batches: Batches, cache_request: _CacheRequest
    ) -> FeatureBatches:
        exchange: FeatureExchange | None = None
        if self._world.size > 1 and not batches.is_sharded:
            measure_lengths(feature_batches(batches, extractor), self._world, self._interrupted)
            if cache_request.use == "all":
                exchange = FeatureExchange(self._world, self._interrupted, extractor.device)
        store = self._store(extractor, batches, cache_request)
        source = FeatureBatches(batches, extractor, cache_request.views, store, exchange)
        if cache_request.share and not batches.is_sharded:
            self._load_warm_features(source, extractor, batches, cache_request.views)
        return source

    def _store(self, extractor: FeatureExtractor, batches: Batches, cache_request: _CacheRequest) -> FeatureStore:
        """Return a store for the features of records, shared by the processes of each host."""
        world, padding, max_length = self._world, extractor.split.padding, extractor.max_length
        entries = len(batches.dataset) * cache_request.views
        if not cache_request.share:
            return FeatureStore(entries, StoreLimits(0, device=extractor.device), padding, max_length)
        expected: int | None = None
        if cache_request.use == "same batches" and world.size > 1:
            own = -(-len(batches) // world.size) * batches.batch_size
            expected = min(entries, own * world.local_size)
        limits = self._budget.store_limits(cache_request.share)
        if world.size == 1:
            return FeatureStore(entries, limits, padding, max_length)
        if cache_request.use != "all" and world.local_size > 1:
            # The other processes of the host need these features too.
            limits = replace(limits, device_bytes=0)
        index = share_bytes(world, SharedIndex.required_bytes(entries))
        memory = share_bytes(world, limits.memory_bytes)
        disk = share_bytes(world, limits.file_bytes, limits.folder)
        shared = None if index is None or memory is None or disk is None else SharedStoreMemory(index, memory, disk)
        if shared is None:
            divided = self._budget.divided(world.local_size).store_limits(cache_request.share)
            limits = replace(divided, device_bytes=limits.device_bytes)
        return FeatureStore(entries, limits, padding, max_length, shared=shared, expected_entries=expected)

    def _load_warm_features(
        self, features: FeatureBatches, extractor: FeatureExtractor, batches: Batches, views: int
    ) -> None:
        """Load the features that an earlier job on this machine saved."""
        backbone, spec = self._cache_plan.backbone, self._cache_plan.spec
        variation: list[object] = [spec.data.augmentation, spec.run.seed, views] if batches.is_augmented else []
        if variation and (options := spec.recipes.model_dump(include={*IMAGE_AUGMENTATION}, exclude_defaults=True)):
            variation.append(options)
        prefix = FrozenPrefix(backbone, self._split_index, extractor, self._cache_plan.numerics.name)
        self._warm_features.load(features, lambda: feature_key(prefix, batches, variation, self._world))

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
