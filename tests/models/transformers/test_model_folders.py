"""Model folders of every kind are read, or identified with a remedy; nothing outside them is read."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from tests.support.model_requests import LABELS, logits_of, request_model
from tests.support.tiny_transformers import write_folder

CLASSES = ("no", "yes")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "bert", "bert", labels=CLASSES)


@pytest.fixture
def mobilenet(tmp_path: Path) -> Path:
    folder = tmp_path / "mobilenet"
    folder.mkdir()
    save_file(
        get_model("mobilenet_v3_small", weights=None, num_classes=len(LABELS)).state_dict(),
        folder / "mobilenet_v3_small.safetensors",
    )
    return folder


def load_text(folder: Path | None, **options: Any) -> Backbone:  # noqa: ANN401 - arguments of `ask`
    scratch = (folder or Path("/tmp")).parent
    return load_backbone(
        request_model(
            **{
                "name": None,
                "scratch": scratch,
                "task": "text-classification",
                "labels": CLASSES,
                "channel": folder,
                **options,
            }
        )
    )


def refusal(folder: Path, *, images: bool = False, **options: Any) -> str:  # noqa: ANN401 - arguments of `ask`
    with pytest.raises(UserError) as caught:
        if images:
            load_backbone(request_model(options.pop("name", None), folder.parent, channel=folder, **options))
        else:
            load_text(folder, **options)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def write_shards(folder: Path, *, changes: Mapping[str, str] | None = None) -> None:
    """Write the weights as two shards with an index, with the index entries in `changes` replaced."""
    state = load_file(folder / WEIGHTS)
    names = sorted(state)
    (folder / WEIGHTS).unlink()
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": {**weight_map, **(changes or {})}}
    (folder / INDEX).write_text(json.dumps(index))


# Shards


def test_sharded_weights_equal_a_single_file(bert: Path) -> None:
    whole = logits_of(load_text(bert))
    write_shards(bert)
    assert torch.equal(logits_of(load_text(bert)), whole)


def test_torch_shards_equal_a_single_file(bert: Path) -> None:
    whole = logits_of(load_text(bert))
    state = {name: tensor.clone() for name, tensor in load_file(bert / WEIGHTS).items()}
    (bert / WEIGHTS).unlink()
    torch.save(state, bert / "first.part")
    index = {"weight_map": dict.fromkeys(state, "first.part")}
    (bert / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert torch.equal(logits_of(load_text(bert)), whole)


@pytest.mark.parametrize("name", ["{outside}", "../outside.safetensors", "a/../../x", "..", "", ".", "a\\b", "a\0b"])
def test_index_with_files_outside_the_folder_is_refused(name: str, bert: Path, tmp_path: Path) -> None:
    shutil.copyfile(bert / WEIGHTS, tmp_path / "outside.safetensors")
    write_shards(bert, changes={"classifier.weight": name.format(outside=tmp_path / "outside.safetensors")})
    assert f"{INDEX} in the model channel refers to a file outside its folder" in refusal(bert)


def test_transformers_weights_outside_the_folder_is_refused(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).rename(tmp_path / "outside.safetensors")
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors")):
        change_config(bert, transformers_weights=name)
        assert "config.json in the model channel refers to weights outside its folder" in refusal(bert)


def test_transformers_weights_field_selects_the_file(bert: Path) -> None:
    whole = logits_of(load_text(bert))
    (bert / WEIGHTS).rename(bert / "mine.safetensors")
    change_config(bert, transformers_weights="mine.safetensors")
    assert torch.equal(logits_of(load_text(bert)), whole)


def test_missing_shards_are_refused(bert: Path) -> None:
    write_shards(bert)
    (bert / "model-00002-of-00002.safetensors").unlink()
    assert "lists 2 shards, of which 1 are missing: model-00002-of-00002.safetensors" in refusal(bert)


def test_index_that_contradicts_its_shards_is_refused(bert: Path) -> None:
    write_shards(bert)
    index = json.loads((bert / INDEX).read_text())
    name, shard = next(iter(index["weight_map"].items()))
    index["weight_map"][name] = next(other for other in index["weight_map"].values() if other != shard)
    (bert / INDEX).write_text(json.dumps(index))
    assert f"1 tensors are not in the shard that it lists, such as {name} in" in refusal(bert)


def test_a_tensor_in_two_shards_is_refused(bert: Path) -> None:
    write_shards(bert)
    second = bert / "model-00002-of-00002.safetensors"
    first = load_file(bert / "model-00001-of-00002.safetensors")
    name = min(first)
    content = {key: tensor.clone() for key, tensor in load_file(second).items()}
    save_file({**content, name: first[name] + 1}, second)
    assert f"{name} is in two shards" in refusal(bert)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "["])
def test_a_damaged_index_is_refused(content: str, bert: Path) -> None:
    write_shards(bert)
    (bert / INDEX).write_text(content)
    assert refusal(bert).startswith(f"{INDEX} in the model channel ")


def test_shards_without_an_index_are_refused(bert: Path) -> None:
    write_shards(bert)
    (bert / INDEX).unlink()
    assert f"{INDEX} is missing, but its shards exist (model-00001-of-00002.safetensors, " in refusal(bert)


# Other kinds of folders


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("images", [True, False])
def test_transformers_weights_without_configuration_are_refused(images: bool, bert: Path) -> None:
    (bert / "config.json").unlink()
    assert f"config.json is missing for {WEIGHTS} in the model channel" in refusal(bert, images=images)
    for path in bert.iterdir():
        if path.name != WEIGHTS:
            path.unlink()
    message = refusal(bert, images=images)
    assert f"config.json is missing for {WEIGHTS} in the model channel" in message


@pytest.mark.parametrize("model_type", ["vit", "swin", "resnet"])
def test_image_model_weights_without_configuration_are_refused(model_type: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / model_type, model_type)
    (folder / "config.json").unlink()
    (folder / "preprocessor_config.json").unlink()
    assert f"config.json is missing for {WEIGHTS}" in refusal(folder, images=True)


def test_shards_without_configuration_are_refused(bert: Path) -> None:
    write_shards(bert)
    (bert / "config.json").unlink()
    assert "config.json is missing for model-00001-of-00002.safetensors" in refusal(bert)


@pytest.mark.parametrize("images", [True, False])
def test_adapter_is_refused(images: bool, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = {"base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight": torch.zeros(1)}
    save_file(tensors, folder / "adapter_model.safetensors")
    assert "is an adapter (PEFT, LoRA), which is not supported: merge it" in refusal(folder, images=images)
    (folder / "adapter_config.json").write_text("{}")
    assert refusal(folder, images=images).startswith("adapter_config.json in the model channel is an adapter")


def test_adapter_with_its_base_model_is_refused(bert: Path) -> None:
    (bert / "adapter_config.json").write_text("{}")
    assert "adapter_config.json in the model channel is an adapter" in refusal(bert)


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json", "config.json"])
def test_git_lfs_pointers_are_refused(file: str, bert: Path) -> None:
    (bert / file).write_bytes(POINTER)
    message = refusal(bert)
    assert f"{file} is a Git LFS pointer of {len(POINTER)} bytes" in message
    assert "git lfs pull" in message


def test_git_lfs_pointers_of_unused_files_are_ignored(bert: Path) -> None:
    for name in ("pytorch_model.bin", "tf_model.h5"):
        (bert / name).write_bytes(POINTER)
    assert load_text(bert).weights.kept_head


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("tf_model.h5", "TensorFlow weights, which cannot be read: load it with transformers 4"),
        ("flax_model.msgpack", "Flax weights"),
        ("model.onnx", "an ONNX graph"),
        ("model-q4.gguf", "a GGUF file"),
        ("saved_model.pb", "a TensorFlow SavedModel"),
    ],
)
@pytest.mark.parametrize("has_config", [True, False])
def test_weights_of_other_frameworks_are_refused(has_config: bool, file: str, words: str, bert: Path) -> None:
    (bert / WEIGHTS).unlink()
    (bert / file).write_bytes(b"content")
    if not has_config:
        (bert / "config.json").unlink()
    assert f"{file} contains {words}" in refusal(bert)


def test_weight_variant_is_refused(bert: Path) -> None:
    (bert / WEIGHTS).rename(bert / "model.fp16.safetensors")
    assert "only the variant model.fp16.safetensors: rename it to model.safetensors" in refusal(bert)


def test_timm_configuration_beside_weights_of_torchvision_is_refused(mobilenet: Path) -> None:
    (mobilenet / "mobilenet_v3_small.safetensors").rename(mobilenet / WEIGHTS)
    config = {"architecture": "mobilenetv3_small_100", "num_classes": 3, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (mobilenet / "config.json").write_text(json.dumps(config))
    message = refusal(mobilenet, images=True)
    assert "belong to another model than timm/mobilenetv3_small_100: " in message
    (mobilenet / "config.json").unlink()
    assert load_backbone(request_model("mobilenet_v3_small", mobilenet.parent, channel=mobilenet)).weights.kept_head


def test_safetensors_take_precedence_over_torch_files(bert: Path) -> None:
    other = {name: tensor + 1 for name, tensor in load_file(bert / WEIGHTS).items()}
    whole = logits_of(load_text(bert))
    torch.save(other, bert / "pytorch_model.bin")
    assert torch.equal(logits_of(load_text(bert)), whole)


def test_weights_with_a_misleading_suffix_are_read(bert: Path) -> None:
    whole = logits_of(load_text(bert))
    state = {name: tensor.clone() for name, tensor in load_file(bert / WEIGHTS).items()}
    torch.save(state, bert / WEIGHTS)
    assert torch.equal(logits_of(load_text(bert)), whole)
    save_file(state, bert / "pytorch_model.bin")
    (bert / WEIGHTS).unlink()
    assert torch.equal(logits_of(load_text(bert)), whole)


def test_sentence_transformers_pooling_is_not_a_second_model(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sentences"
    shutil.copytree(bert, folder / "0_Transformer")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16}')
    assert load_text(folder).weights.kept_head


def test_several_models_are_refused(bert: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-100", "checkpoint-200"):
        shutil.copytree(bert, tmp_path / "run" / name)
    message = refusal(tmp_path / "run")
    assert "several models, in the folders checkpoint-100, checkpoint-200: keep only" in message


def pack(folder: Path, archive: Path, mode: Any = "w:gz") -> None:  # noqa: ANN401 - a literal of tarfile
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, arcname=".")


@pytest.mark.parametrize("packed", [True, False])
def test_model_next_to_inference_code_is_found(packed: bool, mobilenet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "inference.py").write_text("import os")
    shutil.copytree(mobilenet, folder / "model")
    if packed:
        pack(folder, tmp_path / "channel" / "model.tar.gz")
        folder = tmp_path / "channel"
    assert load_backbone(request_model(None, tmp_path, channel=folder)).weights.kept_head


def test_archive_without_a_model_lists_its_contents(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for name in ("code/inference.py", "export/saved_model.pb"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("x")
    pack(folder, tmp_path / "channel" / "model.tar.gz")
    message = refusal(tmp_path / "channel", images=True)
    assert message.startswith(
        "model.tar.gz of the model channel contains no supported model; it contains code/, export/."
    )
    assert "saved_model.pb contains a TensorFlow SavedModel" in message


@pytest.mark.parametrize("name", ["model.tar.gz", "weights.bin", "model"])
@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_archives_are_recognized_by_content(mode: str, name: str, bert: Path, tmp_path: Path) -> None:
    pack(bert, tmp_path / "channel" / name, mode)
    assert load_text(tmp_path / "channel").weights.kept_head


def test_weights_and_an_archive_are_refused(mobilenet: Path) -> None:
    pack(mobilenet, mobilenet / "model.tar.gz")
    assert "contains weights (mobilenet_v3_small.safetensors) and an archive (model.tar.gz)" in refusal(
        mobilenet, images=True
    )


def test_unsupported_archive_type_is_refused(mobilenet: Path, tmp_path: Path) -> None:
    (tmp_path / "channel").mkdir()
    shutil.make_archive(str(tmp_path / "channel" / "model"), "zip", mobilenet)
    assert "model.zip is a ZIP archive, which is not supported: provide a tar file" in refusal(
        tmp_path / "channel", images=True
    )


# Links


def test_links_inside_the_channel_are_followed(bert: Path) -> None:
    (bert / "blobs").mkdir()
    (bert / WEIGHTS).rename(bert / "blobs" / "0123")
    (bert / WEIGHTS).symlink_to("blobs/0123")
    assert load_text(bert).weights.kept_head


@pytest.mark.parametrize("absolute", [True, False])
def test_external_links_are_refused(absolute: bool, bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).rename(tmp_path / "outside.safetensors")
    (bert / WEIGHTS).symlink_to(tmp_path / "outside.safetensors" if absolute else "../outside.safetensors")
    assert f"a link that points outside its folder: '{WEIGHTS}'" in refusal(bert)


def test_external_folder_links_are_refused(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "channel").mkdir()
    (tmp_path / "channel" / "model").symlink_to(bert, target_is_directory=True)
    assert "a link that points outside its folder: 'model'" in refusal(tmp_path / "channel")


def test_cyclic_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "channel").mkdir()
    (tmp_path / "channel" / "config.json").symlink_to("config.json")
    assert "a link that points outside its folder: 'config.json'" in refusal(tmp_path / "channel")


def test_channel_may_be_a_link(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "channel").symlink_to(bert, target_is_directory=True)
    assert load_text(tmp_path / "channel").weights.kept_head


def test_external_links_in_a_named_folder_are_refused(bert: Path, tmp_path: Path) -> None:
    (bert / WEIGHTS).rename(tmp_path / "outside.safetensors")
    (bert / WEIGHTS).symlink_to("../outside.safetensors")
    with pytest.raises(UserError, match="a link that points outside its folder"):
        load_text(None, name=str(bert), scratch=tmp_path)


def test_hub_cache_snapshot_is_read(bert: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--mine" / "snapshots" / "0123"
    blobs = tmp_path / "models--mine" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in bert.iterdir():
        shutil.copyfile(file, blobs / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_text(None, name=str(snapshot), scratch=tmp_path).weights.kept_head
