"""Run a page's Python snippets in order, as a reader with a role and a bucket would, without waiting for jobs.

run_snippets.py SDK IMAGE ROLE BUCKET < JSON list of pieces
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any


def main(sdk: str, image: str, role: str, bucket: str) -> None:
    names: dict[str, Any] = {"role": role}
    if sdk == "sdk_v2":
        from sagemaker.estimator import Estimator

        Estimator.fit = functools.partialmethod(Estimator.fit, wait=False)
    else:
        from sagemaker.train import ModelTrainer

        ModelTrainer.train = functools.partialmethod(ModelTrainer.train, wait=False)
    for piece in json.load(sys.stdin):
        text = piece.replace("<account>.dkr.ecr.<region>.amazonaws.com/finetune", image.rpartition(":")[0])
        exec(text.replace("<role>", role).replace("<bucket>", bucket), names)


if __name__ == "__main__":
    main(*sys.argv[1:])
