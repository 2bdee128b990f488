"""Shared code of the scripts with the Trainer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from benchmarks.sides import EPOCH_DONE, FIRST_STEP, TrainerSettings, tell


class Clock(TrainerCallback):
    """Reports the end of the first step and of each epoch."""

    stepped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ANN401 - types of the Trainer
        """Report the first step once."""
        del args, state, control, rest
        if not self.stepped:
            self.stepped = True
            _synchronize()
            tell(FIRST_STEP)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ANN401 - types of the Trainer
        """Report the end of the epoch."""
        del args, state, control, rest
        _synchronize()
        tell(EPOCH_DONE)


def _synchronize() -> None:
    """Wait for the GPU, which computes asynchronously."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def arguments_of(settings: TrainerSettings, **more: Any) -> TrainingArguments:  # noqa: ANN401 - types of the Trainer
    """The Trainer's defaults, except for the settings that both sides must share."""
    return TrainingArguments(
        output_dir=settings.output,
        per_device_train_batch_size=settings.batch,
        num_train_epochs=settings.epochs,
        learning_rate=settings.rate,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=settings.bf16,
        use_cpu=not torch.cuda.is_available(),
        **more,
    )
