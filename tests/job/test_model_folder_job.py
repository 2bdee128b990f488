"""Jobs with inconsistent model folders: the answers of transformers, a warning, or an error that says why."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.comparison import BOUND, Case, compare
from tests.support.tiny_transformers import write_folder
from tests.support.whole_jobs import FinishedJob, run_training, succeeded

EVALUATE = {"strategy": "evaluate", "precision": "fp32"}
TEXTS = ("the cat sat", "a dog ran away", "the mat", "up", "in the dog", "a cat on a mat ran up")


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def without(path: Path, *fields: str) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in fields}))


def write_texts(folder: Path, labels: tuple[str, ...], texts: tuple[str, ...] = TEXTS) -> Path:
    folder.mkdir()
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "text"])
        rows.writerows((labels[number % len(labels)], text) for number, text in enumerate(texts))
    return folder


def evaluate(workdir: Path, folder: Path, labels: tuple[str, ...], **options: str) -> FinishedJob:
    return run_training(
        workdir / "job", {"test": write_texts(workdir / "test", labels), "model": folder}, {**EVALUATE, **options}
    )


def logits_of(folder: Path) -> torch.Tensor:
    """Logits of every text, by transformers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]).softmax(1)


@pytest.mark.parametrize(
    "fields",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_normalize": False, "do_rescale": False},
        {"resample": 0},
        {"size": {"shortest_edge": 70}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
    ],
)
def test_image_processor_settings_match_the_pipeline(fields: dict[str, object], tmp_path: Path) -> None:
    def switch(folder: Path) -> None:
        change(folder / "preprocessor_config.json", **fields)

    # Pixels of 0 to 255 give larger logits, with larger rounding errors.
    bound = BOUND if fields.get("do_rescale", True) else 1e-4
    assert compare(Case("vit", "images"), tmp_path, switch).difference <= bound
    source, exported = (
        json.loads((folder / "preprocessor_config.json").read_text())
        for folder in (tmp_path / "model", tmp_path / "job" / "opt-ml" / "model")
    )
    assert {name: exported[name] for name in source} == source


def test_roberta_padding_matches_the_pipeline(tmp_path: Path) -> None:
    def disagree(folder: Path) -> None:
        change(folder / "config.json", pad_token_id=3)

    assert compare(Case("roberta", "texts"), tmp_path, disagree).difference <= BOUND


def add_word(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("text", ["the newword sat", "the cat"])
@pytest.mark.parametrize("strategy", ["evaluate", "full"])
def test_added_tokens_without_embeddings_fail_the_job_before_the_first_step(
    model_type: str, text: str, strategy: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "model", model_type, labels=("neg", "pos"))
    add_word(folder)
    data = write_texts(tmp_path / "train", ("neg", "pos"), (*TEXTS * 4, text))
    job = run_training(tmp_path / "job", {"train": data, "model": folder}, {"strategy": strategy})
    assert job.exit_code == 1
    assert job.failure.startswith("The tokenizer in the model channel has 16 tokens, but the embeddings of the model")
    assert "epoch=" not in job.log


@pytest.mark.parametrize("strategy", ["evaluate", "full"])
def test_padding_token_without_embedding_is_replaced(strategy: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_folder(tmp_path / "model", "gpt2", labels=("neg", "pos"))
    expected = logits_of(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[MORE]"})
    tokenizer.save_pretrained(folder)
    data = write_texts(tmp_path / "data", ("neg", "pos"))
    options = {"strategy": strategy, "precision": "fp32", "epochs": "1"}
    job = succeeded(run_training(tmp_path / "job", {"train": data, "test": data, "model": folder}, options))
    assert "pads with '[MORE]' (15), for which the model has no embedding" in job.log
    if strategy == "evaluate":
        rows = [[float(row[f"probability:{name}"]) for name in ("neg", "pos")] for row in job.predictions("test")]
        assert torch.allclose(torch.tensor(rows), expected, atol=BOUND)


def test_labels_are_read_from_label2id(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bert", labels=("pos", "neg"))
    without(folder / "config.json", "id2label")
    expected = logits_of(folder)
    job = succeeded(evaluate(tmp_path, folder, ("neg", "pos")))
    assert job.artifact()["labels"] == ["pos", "neg"]
    rows = [[float(row[f"probability:{name}"]) for name in ("pos", "neg")] for row in job.predictions("test")]
    assert torch.allclose(torch.tensor(rows), expected, atol=BOUND)
    exported = json.loads((job.folder.model / "config.json").read_text())
    assert exported["id2label"] == {"0": "pos", "1": "neg"}


def test_contradictory_labels_fail_an_evaluation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bert", labels=("pos", "neg"))
    change(folder / "config.json", label2id={"pos": 1, "neg": 0})
    job = evaluate(tmp_path, folder, ("neg", "pos"))
    assert job.exit_code == 1
    assert "config.json contradicts itself: 'neg' is 1 in id2label and 0 in label2id" in job.failure


@pytest.mark.parametrize(
    "fields", [{"problem_type": "regression"}, {"id2label": {"0": "score"}, "label2id": {"score": 0}}]
)
def test_regression_model_is_not_evaluated(fields: dict[str, object], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bert", labels=("neg", "pos"))
    change(folder / "config.json", **fields)
    job = evaluate(tmp_path, folder, ("neg", "pos"))
    assert job.exit_code == 1
    assert "config.json describes a regression" in job.failure


@pytest.mark.parametrize(
    ("options", "warned"),
    [({}, True), ({"class_names": "gut,schlecht"}, False), ({"class_names": "schlecht,gut"}, False)],
)
def test_assumed_class_order_is_a_warning(options: dict[str, str], warned: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bert")
    job = succeeded(evaluate(tmp_path, folder, ("schlecht", "gut"), **options))
    assert ("output 0 is assigned to 'gut', 1 to 'schlecht'" in job.log) == warned
    assert job.artifact()["labels"] == options.get("class_names", "gut,schlecht").split(",")


def test_bare_state_dict_is_evaluated_with_warning(
    tmp_path: Path, first_job: FinishedJob, holdout: Path, artifact: Path
) -> None:
    del first_job
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "resnet18.safetensors").write_bytes((artifact / "model.safetensors").read_bytes())
    options = {**EVALUATE, "model_name": "resnet18", "image_size": "32"}
    job = succeeded(run_training(tmp_path / "job", {"test": holdout, "model": folder}, options))
    assert "output 0 is assigned to 'blue', 1 to 'green', 2 to 'red'" in job.log


@pytest.mark.parametrize("pairs", [True, False])
def test_pairs_of_texts_need_two_token_types(pairs: bool, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bert", labels=("neg", "pos"), type_vocab_size=1)
    (tmp_path / "test").mkdir()
    rows = [f"{'neg' if number % 2 else 'pos'},the cat{',a dog' if pairs else ''}" for number in range(6)]
    header = "label,sentence1,sentence2" if pairs else "label,text"
    (tmp_path / "test" / "texts.csv").write_text("\n".join([header, *rows]) + "\n")
    job = run_training(tmp_path / "job", {"test": tmp_path / "test", "model": folder}, EVALUATE)
    assert job.exit_code == (1 if pairs else 0), job.log
    assert ("the model has only 1 (type_vocab_size)" in job.failure) == pairs
