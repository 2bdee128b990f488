"""AutoGluon's MultiModalPredictor with its default preset, but for the pretrained weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import torch
from autogluon.multimodal import MultiModalPredictor
from safetensors.torch import load_file

from benchmarks.learning.peers.cell import Cell, read_cell, read_images, read_texts, write_predictions


def frame(cell: Cell, records: str) -> pd.DataFrame:
    """The records as a table."""
    inputs, labels = (read_images if cell.images else read_texts)(records)
    return pd.DataFrame({"image" if cell.images else "text": inputs, "label": labels})


def model_folder(cell: Cell) -> str:
    """The folder of the model; that of a timm model as AutoGluon reads it: in torch's format, without a classifier."""
    if not cell.images:
        return cell.model
    source, folder = Path(cell.model), Path(cell.scratch) / "model"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    state = load_file(source / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    torch.save(kept, folder / "pytorch_model.bin")
    return str(folder)


def main() -> None:
    """Train and predict."""
    cell = read_cell()
    model = "timm_image" if cell.images else "hf_text"
    predictor = MultiModalPredictor(label="label", path=f"{cell.scratch}/predictor", verbosity=0)
    predictor.fit(
        frame(cell, cell.train),
        seed=cell.seed,
        hyperparameters={
            "model.names": [model],
            f"model.{model}.checkpoint_name": model_folder(cell),
            "env.num_gpus": 0,
            "env.num_workers": 0,
            "env.num_workers_inference": 0,
            **({"model.timm_image.image_size": cell.image_size} if cell.images else {}),
        },
    )
    write_predictions(cell, [str(label) for label in predictor.predict(frame(cell, cell.test).drop(columns="label"))])


if __name__ == "__main__":
    main()
