"""The same job with transformers' `Trainer`: resume, run one step and report its time; or train to a checkpoint."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from finetune.training.saved_state.run_history import process_age

FIRST_STEPS = 10


@dataclass
class Texts(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of the table, tokenized on access."""

    rows: list[dict[str, str]]
    classes: list[str]
    tokenizer: Any

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Tokens and class number."""
        row = self.rows[index]
        encoded: dict[str, list[int] | Tensor] = dict(self.tokenizer(row["text"], truncation=True, max_length=64))
        return {**encoded, "labels": self.classes.index(row["label"])}


class StopAfter(TrainerCallback):
    """Stops training after `steps` steps of this process, and times the first one."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ANN401 - types of the Trainer
        """Count the step."""
        del args, state, rest
        self.seconds = self.seconds or process_age()
        self.left -= 1
        control.should_training_stop = self.left <= 0
        control.should_save = False


def main() -> None:
    """Arguments: table, model, output folder, batch size, checkpoint to resume from or `-` for none."""
    table, model, output, batch_size, checkpoint = sys.argv[1:]
    with Path(table).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(model)
    stop = StopAfter(1 if checkpoint != "-" else FIRST_STEPS)
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(model),
        args=TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=int(batch_size),
            num_train_epochs=2,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Texts(rows, sorted({row["label"] for row in rows}), tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[stop],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint == "-" else checkpoint)
    if checkpoint == "-" and trainer.model is not None:
        trainer._save_checkpoint(trainer.model, None)
    sys.stdout.write(f"\n{json.dumps({'seconds': stop.seconds})}\n")


if __name__ == "__main__":
    main()
