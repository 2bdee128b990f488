"""Cross-validated logistic regression of scikit-learn on frozen features."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.learning.peers.cell import Cell, read_cell, read_images, read_texts, write_predictions
from benchmarks.learning.peers.timm_model import eval_transform, load_timm

_BATCH = 32
_FOLDS = 5


def image_features(cell: Cell, paths: list[str]) -> Any:  # noqa: ANN401 - an array
    """Pooled features of images."""
    from PIL import Image

    model, transform = load_timm(cell.model, num_classes=0).eval(), eval_transform(cell.model, cell.image_size)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(paths), _BATCH):
            images = [transform(Image.open(path).convert("RGB")) for path in paths[start : start + _BATCH]]
            rows.append(model(torch.stack(images)))
    return torch.cat(rows).numpy()


def text_features(cell: Cell, texts: list[str]) -> Any:  # noqa: ANN401 - an array
    """Last hidden state of the first token."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cell.model)
    model = AutoModel.from_pretrained(cell.model).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                texts[start : start + _BATCH], truncation=True, max_length=256, padding=True, return_tensors="pt"
            )
            rows.append(model(**batch).last_hidden_state[:, 0])
    return torch.cat(rows).numpy()


def main() -> None:
    """Fit and predict."""
    cell = read_cell()
    read, features = (read_images, image_features) if cell.images else (read_texts, text_features)
    (train, labels), (test, _) = read(cell.train), read(cell.test)
    folds = min(_FOLDS, *Counter(labels).values())
    estimator = (
        LogisticRegressionCV(cv=folds, max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False)
        if folds > 1
        else LogisticRegression(max_iter=1000)
    )
    classifier = make_pipeline(StandardScaler(), estimator).fit(features(cell, train), labels)
    write_predictions(cell, [str(label) for label in classifier.predict(features(cell, test))])


if __name__ == "__main__":
    main()
