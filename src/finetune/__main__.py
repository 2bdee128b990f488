"""`python -m finetune`: the job without sagemaker-training around it."""

from __future__ import annotations

import sys

from finetune.entry import run

if __name__ == "__main__":
    sys.exit(run())
