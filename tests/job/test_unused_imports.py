"""Is what torch and torchvision import for others there for these, though a job does without?"""

from __future__ import annotations

import pytest

from job.test_postponed_imports import said

UNUSED = {
    "torch.distributions": "Normal",
    "torch.export": "ExportedProgram",
    "torch.masked": "masked_tensor",
    "torch.quantization": "QConfig",
    "torch.utils.data": "DataLoader",
    "torch.nn.intrinsic": "ConvBn2d",
    "torch.nn.qat": "Linear",
    "torch.nn.quantizable": "LSTM",
    "torch.nn.quantized": "Linear",
    "torchvision.models.detection": "fasterrcnn_resnet50_fpn",
    "torchvision.models.optical_flow": "raft_small",
    "torchvision.models.quantization": "resnet18",
    "torchvision.models.segmentation": "fcn_resnet50",
    "torchvision.models.video": "r3d_18",
}


def test_what_nobody_uses_is_not_imported() -> None:
    code = f"""
import torchvision
print(*(name for name in {list(UNUSED)} if hasattr(sys.modules[name], "__file__")))
"""
    assert said(code) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), UNUSED.items())
def test_what_nobody_uses_is_there_for_whoever_does(module: str, name: str) -> None:
    code = f"""
import torchvision
found = {module}.{name}
from {module} import {name}
import {module}
assert found is {name} is {module}.{name} and hasattr({module}, "__file__")
print(sys.modules["{module}"] is {module})
"""
    assert said(code) == "True"


@pytest.mark.slow
def test_a_network_can_be_exported_and_compiled_afterwards() -> None:
    code = """
import torch, torchvision
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout()).eval()
given = (torch.ones(2, 3, 8, 8),)
size = torch.export.Dim("batch", min=1, max=8)
program = torch.export.export(network, given, dynamic_shapes=({0: size},))
compiled = torch.compile(network, backend="eager")
print(*(torch.equal(other(*given), network(*given)) for other in (program.module(), compiled)))
"""
    assert said(code) == "True True"


@pytest.mark.slow
def test_a_module_within_one_that_nobody_uses_can_be_imported() -> None:
    code = """
import torch.distributions.normal
import torch.utils.data.distributed
import torchvision.models.detection.faster_rcnn
from torchvision.datasets.mnist import MNIST
import importlib
print(torch.distributions.normal.Normal is torch.distributions.Normal, MNIST is torchvision.datasets.MNIST)
before = torch.distributions.Normal
print(importlib.reload(torch.distributions.normal).Normal is before)
"""
    assert said(code) == "True True\nFalse"
