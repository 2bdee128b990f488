"""Which layers of each phase are frozen from the input on, and where are their outputs kept?"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.data.batches import Batches, BatchSource
from finetune.features.batches import FeatureBatches
from finetune.features.front import FrontRun
from finetune.features.storage import Place
from finetune.job.loaders import Loaders
from finetune.models.backbone import Backbone, ImageInput
from finetune.spec.job_spec import JobSpec
from finetune.strategies.plan import Phase, Plan
from finetune.training.feeds import Feed, border_of
from finetune.training.precision import Numerics

logger = logging.getLogger(__name__)

_GB = 10**9
_MEMORY_SHARE, _DISK_SHARE, _DEVICE_SHARE = 0.5, 0.5, 0.25
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
        return spec.features.views or (1 if spec.strategy.name == "feature_extraction" else 2)

    def epochs(self, phase: Phase) -> int:
        """How long a phase lasts."""
        ends = [later.first_epoch for later in self.plan.phases if later.first_epoch > phase.first_epoch]
        return min(ends, default=self.spec.optimisation.epochs) - phase.first_epoch

    def keeps(self, phase: Phase) -> bool:
        """Whether features of training records are asked for again within the phase."""
        return self.spec.features.cache == "auto" and self.epochs(phase) > self.views


class PhaseFeeds:
    """Batches of each phase: features where layers are frozen from the input on, else records.

    The frozen layers always run apart from the others, kept or not, so that keeping changes no bit.
    """

    def __init__(self, frozen: Frozen, loaders: Loaders, folder: Path) -> None:
        """Compute nothing yet.

        Args:
            frozen: what decides on frozen layers.
            loaders: batches of records.
            folder: on the fastest local disk.
        """
        self._frozen = frozen
        self._loaders = loaders
        self._folder = folder
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
        return None if batches is None else Feed(batches, self._frozen.backbone.forward)

    def enter(self, phase: Phase) -> None:
        """Let training and validation go the way of a phase."""
        if self._training is not None and self._frozen.border(phase) == self._border:
            return
        self._border = self._frozen.border(phase)
        train, validation = self._loaders.train, self._loaders.validation
        self._training, self._validation = self.whole(train), self.whole(validation)
        # What comes through a pipe cannot be looked up again, so nothing of it is kept.
        if not self._border or not isinstance(train, Batches):
            return
        validation = validation if isinstance(validation, Batches) else None
        run, views = self._run(), min(self._frozen.views, self._frozen.spec.optimisation.epochs)
        counts = len(train.dataset) * views, len(validation.dataset) if validation else 0
        source = train if self._frozen.views > 1 else train.without_augmentation()
        keeps = self._frozen.spec.features.cache == "auto"
        place = self._place(counts[0] / sum(counts)) if self._frozen.keeps(phase) else Place(0, device=run.device)
        self._training = Feed(FeatureBatches(source, run, views, place), run.cut.back)
        if validation is not None:
            place = self._place(counts[1] / sum(counts)) if keeps else Place(0, device=run.device)
            self._validation = Feed(FeatureBatches(validation, run, 1, place), run.cut.back)

    def _run(self) -> FrontRun:
        backbone, numerics = self._frozen.backbone, self._frozen.numerics
        expects = backbone.expects
        pictures = isinstance(expects, ImageInput)
        longest = 1 if isinstance(expects, ImageInput) else expects.max_length
        chunk = _CHUNK[numerics.device.type, pictures]
        return FrontRun(backbone.cut(self._border), chunk, longest, numerics.device, numerics.context)

    def _place(self, share: float) -> Place:
        """Room for a share of all features."""
        device, asked = self._frozen.numerics.device, self._frozen.spec.features.size_gb
        limit = None if asked is None else int(asked * _GB * share)
        memory = int(available_memory() * _MEMORY_SHARE * share)
        disk = int(shutil.disk_usage(self._folder).free * _DISK_SHARE * share)
        on_device = int(torch.cuda.mem_get_info()[0] * _DEVICE_SHARE * share) if device.type == "cuda" else 0
        if limit is not None:
            memory, disk, on_device = min(memory, limit), min(disk, limit), min(on_device, limit)
        return Place(memory, disk, self._folder, device, on_device)


def available_memory() -> int:
    """Bytes of memory that this process may still take, on this host and in its container."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))
