"""Atomic checkpoints of named stateful parts, validated when read."""

from finetune.checkpoint.layout import CheckpointName
from finetune.checkpoint.manifest import CheckpointInfo, Manifest, Specification
from finetune.checkpoint.reading import LoadedCheckpoint
from finetune.checkpoint.snapshot import HasState, Snapshot, SnapshotBuffers, take_snapshot
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
    "HasState",
    "LoadedCheckpoint",
    "Manifest",
    "Snapshot",
    "SnapshotBuffers",
    "Specification",
    "flatten_state",
    "take_snapshot",
    "unflatten_state",
]
