"""fastai's `vision_learner(...).fine_tune` with a timm model, as in its documentation: 20 % of the images validate."""

from __future__ import annotations

from pathlib import Path

from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner

from benchmarks.learning.peers.cell import read_cell, read_images, write_predictions

_EPOCHS = 5
"""`fine_tune` has no default; five is between its documentation's examples of one and ten."""


def main() -> None:
    """Train and predict."""
    cell = read_cell()
    set_seed(cell.seed)
    loaders = ImageDataLoaders.from_folder(
        cell.train,
        valid_pct=0.2,
        seed=cell.seed,
        item_tfms=Resize(cell.image_size),
        batch_tfms=aug_transforms(),
        num_workers=0,
        bs=min(64, max(8, len(read_images(cell.train)[0]) // 4)),
    )
    overlay = {"file": str(Path(cell.model) / "model.safetensors"), "hf_hub_id": None}
    learner = vision_learner(loaders, Path(cell.model).name, metrics=accuracy, pretrained_cfg_overlay=overlay)
    learner.path = Path(cell.scratch)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(_EPOCHS)
        paths, _ = read_images(cell.test)
        outputs, _ = learner.get_preds(dl=loaders.test_dl([Path(path) for path in paths]))
    write_predictions(cell, [str(loaders.vocab[index]) for index in outputs.argmax(1)])


if __name__ == "__main__":
    main()
