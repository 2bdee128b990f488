"""Fine-tunes pretrained image and text models on a user's data under SageMaker's `/opt/ml` contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.local.training import TrainingRun
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


def train(
    data: Path | str,
    *,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    model: str | None = None,
    output: Path | str | None = None,
    **hyperparameters: object,
) -> TrainingRun:
    """Train a model on this machine, with all of its GPUs, and return it with metrics and paths.

        run = finetune.train("photos", epochs=5)
        print(run.score)
        run.load().predict("new.jpg")

    The job runs in a child process, and stops at KeyboardInterrupt; `run.resume()` continues it.

    Args:
        data: a folder per class, a table, or anything else that the channel `train` may contain; or a folder that
            contains `train` and `validation` or `test`.
        validation: the same with records for validation; by default a share of `data` is held out.
        test: the same with records that are evaluated at the end.
        model: name of a pretrained model, or the path of a model or of an earlier job.
        output: folder of the job; by default `runs/NAME-TIME`.
        **hyperparameters: hyperparameters of the job, such as `epochs=5`.

    Raises:
        JobError: the job failed; the message is the cause. A `UserError` if the request or the data are wrong.
    """
    from finetune.local.training import TrainingOptions
    from finetune.local.training import train as run_training

    channels = {
        name: None if path is None else Path(path) for name, path in (("validation", validation), ("test", test))
    }
    target = None if output is None else Path(output)
    return run_training(TrainingOptions(Path(data), channels, model, hyperparameters, target))


def resume(path: Path | str) -> TrainingRun:
    """Continue a job of `train` in its folder, after a stop or a failure.

    Raises:
        JobError: there is no job, or it failed.
    """
    from finetune.local.training import resume as resume_training

    return resume_training(Path(path))
