"""`python -m finetune`: runs the job without sagemaker-training."""

from __future__ import annotations

import sys

from finetune.entry import run

if __name__ == "__main__":
    sys.exit(run())
