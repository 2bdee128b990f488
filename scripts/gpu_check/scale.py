"""Sizes of all parts, for a GPU and for a dry run."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.image_task import SEEN


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes.

    Attributes:
        exact_images: training images of the jobs that are compared bit by bit.
        exact_texts: training texts of these jobs.
        exact_batch: records per step in these jobs.
        exact_strategies: strategies of these jobs.
        image_size: side of the images in these jobs and in training steps, in pixels.
        seen_images: images that batch normalization has seen before training.
        images: training images of the speed comparison.
        texts: training texts of the speed comparison.
        epochs: epochs of every job.
        batch: records per step in the speed comparison.
        layers: layers of the text model; 6 for the size of MiniLM-L6.
        width: hidden size of the text model; 384 for the size of MiniLM-L6.
        step_batch: images, and texts, per training step outside of jobs.
        steps: timed steps.
        virtual_devices: numbers of virtual devices.
        process_modes: whether two processes use deterministic algorithms.
        layers_trained: trainable layers in the speed comparison, see `benchmarks.work.Lesson`.
        compared_kinds: kinds of records in the speed comparison.
    """

    exact_images: int
    exact_texts: int
    exact_batch: int
    exact_strategies: tuple[str, ...]
    image_size: int
    seen_images: int
    images: int
    texts: int
    epochs: int
    batch: int
    layers: int
    width: int
    step_batch: int
    steps: int
    virtual_devices: tuple[int, ...]
    process_modes: tuple[bool, ...]
    layers_trained: tuple[str, ...]
    compared_kinds: tuple[str, ...]


GPU = Scale(
    exact_images=96,
    exact_texts=256,
    exact_batch=16,
    exact_strategies=("feature_extraction", "partial", "full"),
    image_size=224,
    seen_images=SEEN,
    images=512,
    texts=2048,
    epochs=3,
    batch=32,
    layers=6,
    width=384,
    step_batch=256,
    steps=20,
    virtual_devices=(1, 2, 4, 8),
    process_modes=(False, True),
    layers_trained=("all", "head", "last layers"),
    compared_kinds=("images", "texts"),
)
DRY = Scale(
    exact_images=8,
    exact_texts=8,
    exact_batch=4,
    exact_strategies=("partial",),
    image_size=64,
    seen_images=2,
    images=4,
    texts=4,
    epochs=2,
    batch=2,
    layers=2,
    width=32,
    step_batch=4,
    steps=1,
    virtual_devices=(1, 2),
    process_modes=(False,),
    layers_trained=("all",),
    compared_kinds=("images",),
)
