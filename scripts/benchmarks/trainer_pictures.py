"""A frozen torchvision network below a new head, trained by transformers' `Trainer` on a folder of pictures."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import ImageFolder
from torchvision.models import get_model, get_model_weights
from transformers import Trainer, TrainerCallback, TrainingArguments

from finetune.job.account import process_age


class Classifier(nn.Module):
    """A network in the form that the Trainer expects: a loss with the logits, where there are labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss and logits."""
        logits = self.network(pixel_values)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class FirstStep(TrainerCallback):
    """Notes when the first step is done."""

    seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:  # noqa: ANN401 - theirs
        """Note it once."""
        del args, state, control, rest
        self.seconds = self.seconds or process_age()


def collate(examples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """A batch of pictures and class numbers."""
    return {
        "pixel_values": torch.stack([pixels for pixels, _ in examples]),
        "labels": torch.tensor([label for _, label in examples]),
    }


def main() -> None:
    """Arguments: pictures, network, its weights, epochs, output folder."""
    pictures, name, weights, epochs, output = sys.argv[1:]
    data = ImageFolder(pictures, get_model_weights(name).DEFAULT.transforms())
    network = get_model(name, weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.requires_grad_(False)
    network.fc = nn.Linear(network.fc.in_features, len(data.classes))
    first = FirstStep()
    trainer = Trainer(
        model=Classifier(network),
        args=TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=32,
            num_train_epochs=int(epochs),
            learning_rate=3e-3,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=data,
        data_collator=collate,
        callbacks=[first],
    )
    trainer.train()
    torch.save(network.state_dict(), Path(output) / "model.pt")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"\n{json.dumps({'first step': first.seconds, 'MiB': peak})}\n")


if __name__ == "__main__":
    main()
