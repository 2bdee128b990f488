"""Imports transformers' text generation, a dependency of every model, without `sklearn.metrics`.

transformers uses a single function of scikit-learn, for assisted generation. Importing it, with pandas and much of
SciPy, takes 0.8 s of CPU time at every start of a job.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_METRICS = "sklearn.metrics"
_GENERATION = "transformers.generation.candidate_generator"


def import_text_generation() -> None:
    """Import text generation with a stand-in for `sklearn.metrics`, which imports scikit-learn on the first call."""
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
