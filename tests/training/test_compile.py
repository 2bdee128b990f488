"""Compiled layers train like uncompiled ones, and give the same bits after an interruption."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from finetune.config.parse import parse_hyperparameters
from finetune.errors import UserError
from finetune.training.compile import check_compiler
from tests.support.tiny import TinyBackbone
from tests.support.training_setup import CPU, TinyTraining, request

pytestmark = pytest.mark.slow

COMPILED = parse_hyperparameters({"compile": "true"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # raised by PyTorch's compiler about PyTorch
@pytest.mark.parametrize(("strategy", "dropout"), [("full", 0.25), ("partial", 0.0)])
def test_compiled_training_resumes_bit_by_bit(strategy: str, dropout: float) -> None:
    hyperparameters = {"strategy": strategy, "epochs": "2", "augmentation_views": "1"}
    whole = TinyTraining(request(compile="true", **hyperparameters), dropout=dropout)
    assert whole.fit()
    first = TinyTraining(request(compile="true", **hyperparameters), stop_after=5, dropout=dropout)
    assert not first.fit()
    torch._dynamo.reset()
    second = TinyTraining(request(compile="true", **hyperparameters), dropout=dropout)
    second.load(first.saved())
    assert second.fit()
    expected = whole.backbone.module.state_dict()
    weights = second.backbone.module.state_dict()
    assert [name for name in expected if not torch.equal(weights[name], expected[name])] == []
    assert weights.keys() == TinyBackbone().module.state_dict().keys()
    if not dropout:
        plain = TinyTraining(request(**hyperparameters), dropout=dropout)
        assert plain.fit()
        ours, theirs = torch.stack(whole.recorder.losses), torch.stack(plain.recorder.losses)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0)


def test_compile_is_refused_for_texts() -> None:
    check_compiler(parse_hyperparameters({}), "text-classification", CPU)
    with pytest.raises(UserError, match=r"compile=true is not supported for texts.*Remove compile"):
        check_compiler(COMPILED, "text-classification", CPU)


def test_missing_compiler_is_reported() -> None:
    """In its own process, where nothing is compiled yet."""
    call = (
        "from finetune.training.compile import check_compiler; from finetune.config.parse import parse_hyperparameters;"
        "import torch; check_compiler(parse_hyperparameters({'compile': 'true'}), 'image-classification',"
        " torch.device('cpu'))"
    )
    variables = {**os.environ, "CXX": "/nowhere/g++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    process = subprocess.run([sys.executable, "-c", call], env=variables, capture_output=True, text=True, check=False)
    assert re.search(r"UserError: compile=true, but .* fails .*Remove compile", process.stderr)
