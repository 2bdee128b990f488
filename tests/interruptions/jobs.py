"""Jobs with all that is hard to reproduce: batch normalization, dropout, augmentation, optimizer moments, phases."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import get_model

from sagemaker_simulator import Channel, Storage, SyncOptions, TrainingJob, TrainingRequest, toolkit_command
from tests.support.tiny_transformers import WORDS, write_folder

STRATEGIES: Mapping[str, Mapping[str, str]] = {
    "auto": {"best_metric": "loss", "early_stopping_patience": "100"},
    "feature_extraction": {"optimizer": "sgd"},
    "partial": {"unfrozen_groups": "1", "gradient_clip_norm": "0.5", "mixup": "0.4"},
    "full": {"gradient_accumulation_steps": "2", "label_smoothing": "0.1"},
    "gradual": {"layer_decay": "0.8", "sampler": "balanced", "augmentation": "trivial", "word_deletion": "0.2"},
    "from_scratch": {
        "optimizer": "rmsprop",
        "class_weights": "balanced",
        "lr_schedule": "constant",
        "ema_decay": "0.9",
        "loss": "focal",
        "cutmix": "1",
    },
}
_FP32_STRATEGIES = ("feature_extraction", "full", "gradual")
"""Strategies of image jobs in fp32, which takes two thirds of the time. The others have the default, bf16 on many
CPUs, as have all text jobs."""
_ENVIRONMENT = {
    "SAGEMAKER_TRAINING_MODULE": "finetune.entry:main",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
TOUCHY_RULES = {
    "WeightUpdateRatio": "large_threshold=1e-12",
    "UnchangedTensor": "num_steps=2:atol=1e9",
    "DeadRelu": "threshold_inactivity=101",
    "VanishingGradient": "threshold=1e9",
    "LossNotDecreasing": "num_steps=1:diff_percent=99",
    "ClassImbalance": "samples=1:threshold_imbalance=0.5",
    "StepOutlier": "stddev=0",
}
"""Rules with findings in healthy jobs: at once, after several samples, after epochs, and by wall-clock time."""
RULES_WITHOUT_TENSORS = "LossNotDecreasing:num_steps=1:diff_percent=99,ClassImbalance:samples=1:threshold_imbalance=0.5"
"""Those that do not look at tensors, which a sharded model does not show."""
_BASE = {
    "rules": ",".join(f"{name}:{parameters}" for name, parameters in TOUCHY_RULES.items()),
    "epochs": "4",
    "batch_size": "8",
    "checkpoint_interval_steps": "2",
    "workers": "1",
    "seed": "11",
}


def write_images(folder: Path, per_class: int = 20) -> Path:
    """Small noisy images of three colors."""
    rng = random.Random(4)
    for number, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            low = [40, 40, 40]
            low[2 - number] = 90
            pixels = bytes(low[channel % 3] + rng.randrange(120) for channel in range(32 * 32 * 3))
            Image.frombytes("RGB", (32, 32), pixels).save(folder / name / f"{index:03d}.png")
    return folder


def write_texts(folder: Path, count: int = 60) -> Path:
    """Sentences of the tiny models' words; the words determine the class."""
    rng = random.Random(5)
    folder.mkdir(parents=True)
    with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for index in range(count):
            label = index % 3
            words = [rng.choice(WORDS[4:]) for _ in range(rng.randrange(3, 12))]
            writer.writerow([" ".join([*words, ("cat", "dog", "mat")[label]]), ("cat", "dog", "mat")[label]])
    return folder


def vision_job(folder: Path, strategy: str, **changes: str) -> TrainingJob:
    """A small image model, with its own pretrained weights unless disabled."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = [Channel("train", write_images(folder / "pictures"))]
    settings = {"image_size": "32", "augmentation": "strong", "dropout": "0.3", "learning_rate": "0.005"}
    if strategy in _FP32_STRATEGIES:
        settings["precision"] = "fp32"
    if strategy == "from_scratch":
        settings["model_name"] = "mobilenet_v3_small"
    else:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = get_model("mobilenet_v3_small", num_classes=5)
        (folder / "network").mkdir()
        save_file(model.state_dict(), folder / "network" / "mobilenet_v3_small.safetensors")
        channels.append(Channel("model", folder / "network"))
    return build_job(folder, channels, settings, strategy, changes)


def text_job(folder: Path, strategy: str, **changes: str) -> TrainingJob:
    """A tiny BERT with dropout."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = [
        Channel("train", write_texts(folder / "texts")),
        Channel("model", write_folder(folder / "bert", "bert")),
    ]
    return build_job(folder, channels, {"learning_rate": "0.002"}, strategy, changes)


def build_job(
    folder: Path, channels: list[Channel], settings: Mapping[str, str], strategy: str, changes: Mapping[str, str]
) -> TrainingJob:
    """A job with checkpoints after every second step, and a sync agent that is sometimes slow."""
    hyperparameters = {**_BASE, **settings, "strategy": strategy, **STRATEGIES[strategy], **changes}
    request = TrainingRequest(channels=tuple(channels), hyperparameters=hyperparameters, environment=_ENVIRONMENT)
    sync = SyncOptions(scan_seconds=0.01, delay_seconds=(0.0, 0.02))
    return TrainingJob(request, toolkit_command(), Storage(folder / "s3"), sync)
