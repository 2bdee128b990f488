"""Atomic checkpoints of named stateful parts, validated when read."""

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import CheckpointInfo, Manifest, Specification
from finetune.checkpoint.reading import LoadedCheckpoint
from finetune.checkpoint.snapshot import Snapshot, SnapshotBuffers, Stateful, take_snapshot
from finetune.checkpoint.state import FlatState, flatten_state, unflatten_state
from finetune.checkpoint.store import CheckpointStore
from finetune.checkpoint.writer import BackgroundWriter, CheckpointTarget

__all__ = [
    "BackgroundWriter",
    "CheckpointInfo",
    "CheckpointName",
    "CheckpointStore",
    "CheckpointTarget",
    "FlatState",
    "LoadedCheckpoint",
    "Manifest",
    "Snapshot",
    "SnapshotBuffers",
    "Specification",
    "Stateful",
    "flatten_state",
    "take_snapshot",
    "unflatten_state",
]
