"""State dicts in the wrappers, prefixes and file types that training scripts write."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import get_model

from finetune.errors import UserError
from finetune.models.backbone import Backbone
from finetune.models.load import load_backbone
from finetune.models.weights.state_dict import read_state_file, strip_model_prefix
from tests.support.model_requests import LABELS, request_model

NAME = "resnet18"
State = dict[str, Tensor]


def build_model(seed: int = 9, name: str = NAME) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        built: nn.Module = get_model(name, weights=None, num_classes=len(LABELS))
    return built


@pytest.fixture(scope="module")
def state() -> State:
    return build_model().state_dict()


def load(folder: Path, name: str | None = NAME, **options: Any) -> Backbone:  # noqa: ANN401 - arguments of `ask`
    return load_backbone(request_model(name, folder, channel=folder, trained=False, **options))


def refusal(folder: Path, name: str | None = NAME) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, name)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def assert_loaded(backbone: Backbone, state: State) -> None:
    loaded = backbone.module.state_dict()
    assert backbone.weights.kept_head
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.module.", "a.b.c.", "backbone."],
)
def test_all_prefixes_are_stripped(prefix: str, state: State, tmp_path: Path) -> None:
    save_file({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "w.safetensors")
    assert_loaded(load(tmp_path), state)


@pytest.mark.parametrize("prefix", ["_orig_mod.module.", "model.backbone."])
def test_unnamed_model_is_recognized_under_a_prefix(prefix: str, state: State, tmp_path: Path) -> None:
    save_file({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "w.safetensors")
    assert_loaded(load(tmp_path, None), state)


def test_wrapper_modules_inside_a_name_are_stripped(state: State, tmp_path: Path) -> None:
    renamed = {key.replace("layer1.0.", "layer1._orig_mod.0._checkpoint_wrapped_module."): state[key] for key in state}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "w.safetensors")
    assert_loaded(load(tmp_path), state)


def test_prefix_and_ignored_tensors_are_logged(state: State, tmp_path: Path) -> None:
    lightning = {f"model.{key}": value for key, value in state.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": lightning, "epoch": 3}, tmp_path / "last.ckpt")
    backbone = load(tmp_path)
    assert_loaded(backbone, state)
    (warning,) = backbone.weights.warnings
    assert "read the tensors with the prefix 'model.', ignored 1 others: criterion.weight" in warning


def test_averaged_weights_of_torch_are_read(state: State, tmp_path: Path) -> None:
    torch.save(AveragedModel(build_model()).state_dict(), tmp_path / "averaged.pth")
    assert "n_averaged" in torch.load(tmp_path / "averaged.pth", weights_only=True)
    assert_loaded(load(tmp_path), state)


@pytest.mark.parametrize(
    ("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("net", "swa")]
)
def test_averaged_weights_take_precedence_and_the_choice_is_logged(
    raw: str, averaged: str, state: State, tmp_path: Path
) -> None:
    other = build_model(10).state_dict()
    torch.save({raw: other, averaged: {"shadow": state, "decay": 0.99}, "epoch": 1}, tmp_path / "w.pth")
    backbone = load(tmp_path)
    assert_loaded(backbone, state)
    (warning,) = backbone.weights.warnings
    assert f"contains several state dicts ({raw}, {averaged}.shadow): read '{averaged}.shadow'" in warning


def test_incomplete_averaged_weights_are_not_chosen(state: State, tmp_path: Path) -> None:
    parameters = {key: value + 1 for key, value in state.items() if "running" not in key}
    torch.save({"model": state, "ema": parameters}, tmp_path / "w.pth")
    assert_loaded(load(tmp_path), state)


def test_averaged_weights_under_a_prefix_of_one_state_dict_are_read(state: State, tmp_path: Path) -> None:
    both = {f"model.{key}": value for key, value in build_model(10).state_dict().items()}
    both |= {f"ema_model.module.{key}": value for key, value in state.items()}
    save_file(both, tmp_path / "w.safetensors")
    assert_loaded(load(tmp_path), state)


def test_two_sets_of_tensors_without_an_average_are_refused(state: State, tmp_path: Path) -> None:
    both = {f"{part}.{key}": value.clone() for part in ("encoder_q", "encoder_k") for key, value in state.items()}
    save_file(both, tmp_path / "w.safetensors")
    assert "several sets of the model's tensors, with the prefixes 'encoder_k.', 'encoder_q.'" in refusal(tmp_path)


def test_two_state_dicts_without_a_usual_key_are_refused(state: State, tmp_path: Path) -> None:
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pth")
    assert "contains several state dicts (student, teacher): save the one to start from alone" in refusal(tmp_path)


def test_optimizer_states_are_not_weights(state: State, tmp_path: Path) -> None:
    moments = {"state": {key: {"exp_avg": torch.zeros(1)} for key in state}, "param_groups": []}
    content = {"model": state, "optimizer": moments, "optimizer_states": [moments], "best_acc1": torch.tensor(7.0)}
    torch.save(content, tmp_path / "w.pth")
    backbone = load(tmp_path)
    assert_loaded(backbone, state)
    assert backbone.weights.warnings == ()


@pytest.mark.parametrize("name", ["model_best.pth.tar", "checkpoint", "w.safetensors"])
@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_files_of_weights_are_recognized_by_content(form: str, name: str, state: State, tmp_path: Path) -> None:
    if form == "safetensors":
        save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state}, tmp_path / name, _use_new_zipfile_serialization=form == "zip")
    assert_loaded(load(tmp_path), state)


def test_trainer_state_files_are_ignored(state: State, tmp_path: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth"):
        torch.save({"state": {}}, tmp_path / name)
    save_file(state, tmp_path / "model.safetensors")
    assert_loaded(load(tmp_path), state)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer of "),
        ("w.safetensors", b"<!DOCTYPE html><html>Access denied</html>", "is an HTML or XML page"),
        ("w.pt", b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file of Keras or TensorFlow"),
        ("w.safetensors", b"GGUF" + bytes(99), "is a GGUF file"),
    ],
)
def test_other_file_types_are_refused(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"{name} {reason}" in refusal(tmp_path)


def test_body_is_compared_before_the_head(tmp_path: Path) -> None:
    save_file(build_model(name="densenet121").state_dict(), tmp_path / "w.safetensors")
    message = refusal(tmp_path)
    assert "belong to another model than model_name='resnet18'" in message
    assert message.endswith("They match 'densenet121': set model_name accordingly.")


def test_reused_head_without_its_bias_is_refused(state: State, tmp_path: Path) -> None:
    save_file({key: value for key, value in state.items() if key != "fc.bias"}, tmp_path / "w.safetensors")
    assert "top layer of the weights is incomplete: fc.bias is missing" in refusal(tmp_path)
    trained = load_backbone(request_model(NAME, tmp_path, channel=tmp_path))
    assert set(trained.weights.newly_initialized) == {"fc.weight", "fc.bias"}
    assert "replaced by a new one: fc.bias is missing" in trained.weights.warnings[0]


def test_head_of_another_structure_is_refused(state: State, tmp_path: Path) -> None:
    state = {key.replace("fc.", "fc.1."): value for key, value in state.items()}
    save_file(state, tmp_path / "w.safetensors")
    assert "fc.1.bias is unexpected" in refusal(tmp_path)


def test_ignored_head_outside_the_prefix_is_logged(state: State, tmp_path: Path) -> None:
    renamed = {key if key.startswith("fc.") else f"backbone.{key}": value for key, value in state.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    assert "the weights have no top layer to keep" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    torch.save(
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()},
        tmp_path / "w.pth",
    )
    loaded = load(tmp_path).module.state_dict()
    assert all(torch.equal(loaded[key].float(), value.to(dtype).float()) for key, value in state.items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_other_dtypes_are_refused(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    torch.save({**state, "layer1.0.conv1.weight": state["layer1.0.conv1.weight"].to(dtype)}, tmp_path / "w.pth")
    assert f"layer1.0.conv1.weight has type {str(dtype).removeprefix('torch.')}" in refusal(tmp_path)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_sparse_and_meta_tensors_are_refused(state: State, tmp_path: Path) -> None:
    for tensor in (torch.zeros(64).to_sparse(), torch.zeros(64, device="meta")):
        torch.save({**state, "bn1.weight": tensor}, tmp_path / "w.pth")
        assert "bn1.weight has no dense values" in refusal(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float, state: State, tmp_path: Path) -> None:
    save_file({**state, "bn1.running_var": torch.full((64,), value)}, tmp_path / "w.safetensors")
    assert "not finite (NaN or infinite), in 1 of 122 tensors: bn1.running_var" in refusal(tmp_path)


def test_missing_counters_and_profiler_tensors_are_harmless(state: State, tmp_path: Path) -> None:
    remaining = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(
        {**remaining, "conv1.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}, tmp_path / "w.safetensors"
    )
    backbone = load(tmp_path)
    assert_loaded(backbone, state)
    assert backbone.weights.initialized_outside_head == ()


@pytest.mark.parametrize("statistic", ["bn1.running_mean", "layer1.0.bn1.running_var"])
def test_missing_statistics_of_batch_normalization_are_refused(statistic: str, state: State, tmp_path: Path) -> None:
    save_file({key: value for key, value in state.items() if key != statistic}, tmp_path / "w.safetensors")
    assert f"{statistic} is missing" in refusal(tmp_path)


def test_incomplete_model_is_refused(state: State, tmp_path: Path) -> None:
    save_file(dict(list(state.items())[: len(state) // 2]), tmp_path / "w.safetensors")
    assert "belong to another model" in refusal(tmp_path)


@pytest.mark.parametrize("shape", [(1, 197), (2, 197, 768), (197,), (1, 198, 768)])
def test_position_embeddings_of_invalid_shape_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with torch.device("meta"):
        full = get_model("vit_b_32", weights=None, num_classes=len(LABELS)).state_dict()
    state = {key: torch.zeros(1).expand(value.shape) for key, value in full.items()}
    torch.save({**state, "encoder.pos_embedding": torch.zeros(shape)}, tmp_path / "vit_b_32.pth")
    assert "encoder.pos_embedding has shape" in refusal(tmp_path, None)


def test_oversized_tensor_claim_allocates_no_memory(state: State, tmp_path: Path) -> None:
    torch.save({**state, "conv1.weight": torch.zeros(1).expand(10**7, 10**5)}, tmp_path / "w.pth")
    assert "conv1.weight has shape [10000000, 100000]" in refusal(tmp_path)


def test_missing_auxiliary_classifiers_are_reported(tmp_path: Path) -> None:
    whole = get_model("googlenet", weights=None, num_classes=len(LABELS), init_weights=False).state_dict()
    save_file({key: value for key, value in whole.items() if not key.startswith("aux")}, tmp_path / "w.safetensors")
    backbone = load(tmp_path, "googlenet")
    assert backbone.weights.kept_head
    assert "aux1.fc1.weight" in backbone.weights.initialized_outside_head
    save_file({key: value for key, value in whole.items() if key != "aux2.fc2.bias"}, tmp_path / "w.safetensors")
    assert load(tmp_path, "googlenet").weights.initialized_outside_head == ("aux2.fc2.bias",)


def test_out_of_memory_is_not_a_user_error(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(state, tmp_path / "w.safetensors")

    def refuse(_path: Path) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("finetune.models.weights.state_dict.load_file", refuse)
    with pytest.raises(MemoryError):
        read_state_file(tmp_path / "w.safetensors")


def test_common_name_endings_are_not_a_prefix() -> None:
    state = {f"{part}.conv1.weight": torch.zeros(1) for part in "abc"}
    assert strip_model_prefix(state, frozenset({"conv1.weight", "bn1.weight", "fc.weight"}), "weights") == (state, ())


def test_compressed_weights_are_not_an_archive(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "plain")
    (tmp_path / "w.pth").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()[:9999], mtime=0))
    (tmp_path / "plain").unlink()
    assert refusal(tmp_path).startswith("w.pth ")
