"""Does a job do without torch's compiler and scikit-learn's metrics, and get the real ones when it uses them?

In processes of their own: this one has imported it long ago.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.job.postponed_imports import look_for_no_plugins
from models.tiny_transformers import PICTURE_TYPES, TEXT_TYPES, write_folder

BEGIN = """
import sys
from finetune.job.postponed_imports import postpone_clients, postpone_imports
postpone_clients()
postpone_imports()
import finetune.job.run
import torch
layer = torch.nn.Linear(3, 3)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(2, 3)).sum().backward()
optimizer.step()
"""


def said(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_what_a_job_of_pictures_imports_and_a_step_of_an_optimizer_do_not_bring_it() -> None:
    of_the_compiler = ("sympy", "torch._dynamo.eval_frame", "torch._refs", "torch._decomp.decompositions")
    never = (*of_the_compiler, "torch.onnx", "torchvision.datasets.mnist")
    assert said(f"print(*(name for name in {never} if name in sys.modules))") == ""


@pytest.mark.slow
def test_a_function_can_be_compiled_afterwards() -> None:
    code = """
compiled = torch.compile(layer, backend="eager")
assert torch.equal(compiled(torch.ones(2, 3)), layer(torch.ones(2, 3)))
optimizer.zero_grad()
compiled(torch.ones(2, 3)).sum().backward()
optimizer.step()
import torchvision, torch._dynamo.utils
real = sys.modules["torch._dynamo"]
assert real is torch._dynamo and hasattr(real, "__file__")
assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2).shape == (1, 1, 2, 2)
print(len(torch._dynamo.utils.counters["frames"]))
"""
    assert int(said(code)) > 0


@pytest.mark.slow
def test_networks_are_built_on_no_device_as_with_what_is_postponed() -> None:
    code = """
from finetune.models.fitting import recognise, vision_names
from finetune.models.vision_families import family_of
from torchvision.models import get_model
one_each = list({family_of(name): name for name in sorted(vision_names(), reverse=True)}.values())
print(len(one_each))
for name in one_each:
    if family_of(name) != "regnet":
        with torch.device("meta"):
            network = get_model(name, weights=None)
        assert name in recognise(network.state_dict(), [name]), name
print(*(name for name in ("torch._refs", "torch._decomp.decompositions") if name in sys.modules))
"""
    count, *imported = said(code).split("\n")
    assert int(count) >= 10
    assert not any(imported)


# DeBERTa's modules still use torch.jit.script when they are imported.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.slow
def test_every_family_of_transformers_is_opened_without_them(tmp_path: Path) -> None:
    kinds = (*TEXT_TYPES, *PICTURE_TYPES)
    for kind in kinds:
        write_folder(tmp_path / kind, kind, labels=("a", "b"))
    code = f"""
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
for kind in {kinds}:
    auto = AutoModelForImageClassification if kind in {PICTURE_TYPES!r} else AutoModelForSequenceClassification
    network = auto.from_pretrained({str(tmp_path)!r} + "/" + kind).train()
    tokens = torch.ones(1, 3, dtype=torch.int64)
    given = dict(pixel_values=torch.ones(2, 3, 32, 32)) if kind in {PICTURE_TYPES} else dict(
        input_ids=tokens, attention_mask=tokens)
    network(**given).logits.sum().backward()
print(*(name for name in ("torch._refs", "torch._decomp.decompositions", "botocore") if name in sys.modules))
"""
    assert said(code) == ""


@pytest.mark.slow
def test_shapes_are_known_as_soon_as_a_compiler_asks() -> None:
    code = """
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._decomp import get_decompositions
assert get_decompositions([torch.ops.aten.addcmul])
assert hasattr(torch._meta_registrations, "__file__") and hasattr(torch._decomp, "__file__")
with FakeTensorMode():
    print(torch.nn.functional.one_hot(torch.zeros(3, dtype=torch.int64), 4).shape[1])
"""
    assert said(code) == "4"


@pytest.mark.slow
def test_what_a_job_of_texts_imports_and_a_pass_through_its_network_do_not_bring_it() -> None:
    code = """
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, GPT2Config
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 10}
bert = AutoModelForSequenceClassification.from_config(BertConfig(**sizes))
gpt2 = AutoModelForSequenceClassification.from_config(
    GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10, pad_token_id=0))
for model in (bert, gpt2):
    tokens = torch.ones(2, 3, dtype=torch.int64)
    model(input_ids=tokens, attention_mask=tokens, labels=torch.zeros(2, dtype=torch.int64)).loss.backward()
print(*(name for name in ("torch._dynamo.eval_frame", "sklearn", "pandas") if name in sys.modules))
"""
    assert said(code) == ""


def test_data_sets_and_the_exporter_are_there_for_whoever_wants_them() -> None:
    code = """
import torchvision
assert torchvision.datasets.ImageFolder.__module__ == "torchvision.datasets.folder"
from torchvision.datasets import mnist
assert torchvision.datasets.MNIST is mnist.MNIST
from torchvision.ops import _register_onnx_ops
assert _register_onnx_ops.roi_pool.__module__ == "torchvision.ops._register_onnx_ops"
assert "torch.onnx" in sys.modules
print(hasattr(torchvision.datasets, "__file__"))
"""
    assert said(code) == "True"


def test_who_registers_is_found_as_by_a_search() -> None:
    code = """
import inspect
from torch.utils import _debug_mode
from torchvision import _meta_registrations
told = dict(inspect.modulesbyfile)
inspect.modulesbyfile.clear()
inspect._filesbymodname.clear()
for asked in (_debug_mode, _meta_registrations):
    found = inspect.getmodule(compile("", asked.__file__, "exec"))
    assert found is asked
    files = [name for name, module in inspect.modulesbyfile.items() if module == asked.__name__]
    print({told[name] for name in files} == {asked.__name__})
"""
    assert said(code) == "True\nTrue"


def test_who_registers_looks_for_no_module() -> None:
    code = """
print(len(inspect._filesbymodname))
"""
    listening = "import inspect\n" + BEGIN + "import torchvision\n" + code
    ended = subprocess.run([sys.executable, "-c", listening], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "0"


@pytest.mark.parametrize("given", [{}, {"PYDANTIC_DISABLE_PLUGINS": "one", "TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}])
def test_plugins_are_looked_for_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, usual in (("PYDANTIC_DISABLE_PLUGINS", "__all__"), ("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")):
        # Set first, so that it is taken back in any case.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
        if name in given:
            monkeypatch.setenv(name, given[name])
        look_for_no_plugins()
        assert os.environ[name] == given.get(name, usual)


@pytest.mark.slow
def test_what_stands_there_calls_the_real_one() -> None:
    code = """
from sklearn.metrics import roc_curve
assert "sklearn" not in sys.modules
assert [float(one) for one in roc_curve([0, 1], [0.2, 0.7])[0]] == [0.0, 0.0, 1.0]
from sklearn import metrics
assert hasattr(metrics, "__file__") and metrics.accuracy_score([0, 1], [0, 0]) == 0.5
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
with TransformGetItemToIndex():
    taken = torch.vmap(lambda at: torch.arange(3)[at])(torch.tensor([2, 0]))
print(*taken.tolist(), hasattr(torch._dynamo, "__file__"))
"""
    assert said(code) == "2 0 True"


@pytest.mark.slow
def test_whoever_imports_a_part_of_it_gets_that() -> None:
    code = "from torch._dynamo import config; from transformers import BertModel; print(config.suppress_errors)"
    assert said(code) == "False"


@pytest.mark.parametrize(
    "name", ["boto3", "paramiko", "torch._dynamo", "torch._decomp", "torchvision.datasets", "sklearn.metrics"]
)
def test_it_is_there_for_whoever_asks_whether_it_is_installed(name: str) -> None:
    assert said(f"import importlib.util; print(importlib.util.find_spec({name!r}).name)") == name


def test_sagemaker_training_does_without_the_client_of_other_hosts() -> None:
    code = """
import sagemaker_training.cli.train, sagemaker_training.mpi
import os
from sagemaker_training import environment, params
os.environ.update(AWS_DEFAULT_REGION="eu-north-1", HOME="/nowhere")
environment.Environment(resource_config={"hosts": ["algo-1"], "current_host": "algo-1"}, input_data_config={},
    hyperparameters={"epochs": 1})
print(os.environ[params.REGION_NAME_ENV])
print(*(name for name in ("cryptography", "invoke", "paramiko.client", "botocore") if name in sys.modules))
"""
    assert said(code) == "eu-north-1"


@pytest.mark.parametrize("variables", [{"AWS_DEFAULT_REGION": "eu-north-1"}, {}, {"AWS_CONFIG_FILE": "config"}])
def test_the_region_is_that_of_the_real_session(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "config").write_text("[default]\nregion = us-gov-west-1\n", encoding="utf-8")
    code = f"""
import os
os.environ.update({variables}, HOME="/nowhere")
os.chdir({str(tmp_path)!r})
import boto3
region = boto3.session.Session().region_name
for name in [name for name in sys.modules if name.startswith("boto3")]:
    del sys.modules[name]
import boto3
assert region == boto3.session.Session().region_name
print(region)
"""
    expected = {"AWS_DEFAULT_REGION": "eu-north-1", "AWS_CONFIG_FILE": "us-gov-west-1"}
    assert said(code) == str(next((expected[name] for name in variables), None))


def test_whoever_reaches_aws_has_the_real_client() -> None:
    code = """
from sagemaker_training import files, intermediate_output
stood = files.boto3
session = stood.session.Session()
assert session.get_available_regions and session.client("s3", region_name="eu-north-1").meta.region_name == "eu-north-1"
import finetune.checkpoint.s3_access, boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig, S3Transfer
assert boto3.exceptions.Boto3Error is Boto3Error
assert stood.session.Session is boto3.session.Session and intermediate_output.s3transfer.S3Transfer is S3Transfer
print(hasattr(boto3, "__file__"))
"""
    assert said(code) == "True"


def test_whoever_connects_to_another_host_has_the_real_client() -> None:
    code = """
import sagemaker_training.mpi as mpi
client = mpi.paramiko.SSHClient()
client.set_missing_host_key_policy(mpi.paramiko.AutoAddPolicy())
import paramiko
from paramiko.client import AutoAddPolicy
assert type(client) is paramiko.SSHClient and paramiko.AutoAddPolicy is AutoAddPolicy
print(hasattr(paramiko, "__file__"))
"""
    assert said(code) == "True"
