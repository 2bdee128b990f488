"""Importing transformers does not import scikit-learn."""

from __future__ import annotations

import subprocess
import sys

BEGIN = """
import sys
from finetune.models.transformers.lazy_sklearn import import_text_generation
import_text_generation()
from transformers.models.bert.modeling_bert import BertForSequenceClassification
from transformers.generation import candidate_generator
"""


def output_of(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_text_model_is_imported_without_sklearn_metrics() -> None:
    assert output_of("print('pandas' in sys.modules, 'sklearn.metrics' in sys.modules)") == "False False"


def test_the_postponed_function_calls_the_real_one() -> None:
    code = "print(*(list(map(float, values)) for values in candidate_generator.roc_curve([0, 1], [0.2, 0.8])[:2]))"
    assert output_of(code) == "[0.0, 0.0, 1.0] [0.0, 1.0, 1.0]"


def test_sklearn_metrics_can_be_imported_afterwards() -> None:
    code = """
from sklearn.metrics import average_precision_score
import sklearn.metrics.pairwise
print(average_precision_score([0, 1], [0.2, 0.8]), hasattr(sys.modules["sklearn.metrics"], "__file__"))
"""
    assert output_of(code) == "1.0 True"
