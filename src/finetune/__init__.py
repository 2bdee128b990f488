"""Fine-tunes pretrained image and text models on a user's data under SageMaker's `/opt/ml` contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.serving.predictor import Predictor

__version__ = "0.2.0"


def load(path: Path | str, device: str | None = None) -> Predictor:
    """Load the model of a finished job for predictions in Python, onto the GPU if there is one.

    The handler in the artifact is executed: load only artifacts that you trust.

    Args:
        path: `model.tar.gz`, the folder of its contents, or a job's folder that contains either.
        device: device such as `cpu` or `cuda:1`.

    Raises:
        UserError: there is no artifact, it cannot be loaded, or there is no such device.
    """
    from finetune.serving.predictor import load_predictor  # imports PyTorch

    return load_predictor(path, device)
