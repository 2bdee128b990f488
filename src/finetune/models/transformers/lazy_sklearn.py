"""Imports transformers' text generation, which every model imports, without `sklearn.metrics`.

transformers uses one function of scikit-learn, for assisted generation. Its import, with pandas and much of SciPy,
takes 0.8 s of a CPU core at every start of a job.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_METRICS = "sklearn.metrics"
_GENERATION = "transformers.generation.candidate_generator"


def import_text_generation() -> None:
    """Import it while a stand-in for `sklearn.metrics` provides `roc_curve`, which imports scikit-learn when called."""
    if _METRICS in sys.modules or _GENERATION in sys.modules:
        return
    stand_in = ModuleType(_METRICS)
    vars(stand_in)["roc_curve"] = _roc_curve
    sys.modules[_METRICS] = stand_in
    try:
        import_module(_GENERATION)
    finally:
        del sys.modules[_METRICS]


def _roc_curve(*args: object, **kwargs: object) -> object:
    return import_module(_METRICS).roc_curve(*args, **kwargs)
