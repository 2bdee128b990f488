"""Downloads pretrained models at image build time, so that jobs need no network: fetch_pretrained FOLDER NAME...

A name is a torchvision classifier, whose default weights are saved as `NAME.safetensors`, or a Hugging Face Hub model,
whose folder is saved as `NAME/`. Jobs look there first.
"""

from __future__ import annotations

import sys
from pathlib import Path

SMALL_FILES = ("*.json", "*.txt", "*.model")
WEIGHTS = ("model.safetensors", "model-*.safetensors")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model-*.bin")


def fetch(name: str, folder: Path) -> None:
    """Download one model; fails if it is incomplete."""
    from torchvision.models import list_models

    if name in list_models():
        fetch_torchvision(name, folder)
    else:
        fetch_hub(name, folder)


def fetch_torchvision(name: str, folder: Path) -> None:
    """Download the default weights of a classifier; torchvision checks their digest."""
    from safetensors.torch import save_file
    from torchvision.models import get_model_weights

    state = get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True, weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{name}.safetensors")


def fetch_hub(name: str, folder: Path) -> None:
    """Download configuration, tokenizer and weights, no code; weights in the old format only if there are no others."""
    from huggingface_hub import snapshot_download

    target = folder / name
    snapshot_download(name, local_dir=target, allow_patterns=[*SMALL_FILES, *WEIGHTS])
    if not any(target.glob("*.safetensors")):
        snapshot_download(name, local_dir=target, allow_patterns=[*PICKLED_WEIGHTS])
    if not any(target.glob("*.safetensors")) and not any(target.glob("*.bin")):
        raise SystemExit(f"fetch_pretrained: {name} has no weights in a supported format: safetensors or PyTorch.")


def main(arguments: list[str]) -> None:
    """Download all named models."""
    folder = Path(arguments[0])
    for name in arguments[1:]:
        fetch(name, folder)
        sys.stdout.write(f"fetched {name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
