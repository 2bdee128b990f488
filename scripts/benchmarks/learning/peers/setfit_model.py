"""SetFit with its defaults: contrastive pairs, then logistic regression."""

from __future__ import annotations

from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from benchmarks.learning.peers.cell import read_cell, read_texts, write_predictions


def main() -> None:
    """Train and predict."""
    cell = read_cell()
    (texts, labels), (test, _) = read_texts(cell.train), read_texts(cell.test)
    model = SetFitModel.from_pretrained(cell.model, labels=sorted(set(labels)))
    arguments = TrainingArguments(output_dir=cell.scratch, seed=cell.seed, report_to="none", save_strategy="no")
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_dict({"text": texts, "label": labels}))
    trainer.train()
    write_predictions(cell, [str(label) for label in model.predict(test)])


if __name__ == "__main__":
    main()
